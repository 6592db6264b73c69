/// The bodies that were ever signed with `docs/examples/worker.key` for the seeds.
pub const BODIES: [&[u8]; 4] = [b"[[1, 2], {}, {}]", b"", b"a\0\x01b\0\x01", b"[1]"];
