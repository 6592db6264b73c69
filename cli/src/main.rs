//! The `taskseal` command.
fn main() {}
