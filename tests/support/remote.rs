//! SoftHSM in another process: `p11-kit server` on a unix socket, to which `p11-kit-client.so` of this process speaks.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use taskseal::pkcs11::{Builder, Pin, PinSource};

use super::softhsm::{PIN, SoftHsm};

/// The server of one token. Ended when dropped.
#[derive(Debug)]
pub struct Server {
    softhsm: PathBuf,
    socket: PathBuf,
    label: String,
    listener: Child,
}

/// `p11-kit-client.so`, if it and `p11-kit` are installed.
pub fn client_module() -> Option<PathBuf> {
    Command::new("p11-kit")
        .arg("--help")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .ok()?;
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    [multiarch.as_str(), "/usr/lib64"]
        .into_iter()
        .map(|directory| Path::new(directory).join("pkcs11/p11-kit-client.so"))
        .find(|path| path.is_file())
}

impl Server {
    /// Starts a server for the token with this label, and waits until it answers.
    pub fn start(hsm: &SoftHsm, label: &str) -> Self {
        let socket = hsm.socket();
        Self {
            listener: listen(hsm.module(), &socket, label),
            softhsm: hsm.module().to_owned(),
            socket,
            label: label.to_owned(),
        }
    }

    /// A builder that names the module, the token and the PIN.
    pub fn builder(&self) -> Builder {
        Builder::new()
            .module_path(client_module().unwrap())
            .token_label(&self.label)
            .pin(PinSource::Value(Pin::new(PIN).unwrap()))
    }

    /// Ends everything that listens or serves with SIGKILL.
    pub fn kill(&mut self) {
        // Looked for before they lose their parent.
        let serving = children(self.listener.id());
        self.listener.kill().unwrap();
        kill(&serving);
        self.listener.wait().unwrap();
    }

    /// Ends the processes that serve with SIGKILL, not the one that listens.
    pub fn kill_connections(&self) {
        kill(&children(self.listener.id()));
    }

    /// Stops the processes that serve: connections stay, and nobody answers.
    pub fn freeze(&self) {
        signal("-STOP", &children(self.listener.id()));
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        signal("-CONT", &children(self.listener.id()));
    }

    /// Stops all of it: new connections get no answer either.
    pub fn freeze_all(&self) {
        signal("-STOP", &[self.listener.id()]);
        self.freeze();
    }

    /// Lets all of it go on.
    pub fn thaw_all(&self) {
        self.thaw();
        signal("-CONT", &[self.listener.id()]);
    }

    /// Starts what was killed.
    pub fn restart(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        self.listener = listen(&self.softhsm, &self.socket, &self.label);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let serving = children(self.listener.id());
        let _ = self.listener.kill();
        kill(&serving);
        let _ = self.listener.wait();
    }
}

fn listen(softhsm: &Path, socket: &Path, label: &str) -> Child {
    let mut server = Command::new("p11-kit");
    server.args(["server", "-f", "--provider"]).arg(softhsm);
    server.arg("--name").arg(socket);
    server.arg(format!("pkcs11:token={label}"));
    let listener = server.stdout(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while UnixStream::connect(socket).is_err() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "p11-kit server does not start"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    listener
}

fn kill(processes: &[u32]) {
    signal("-KILL", processes);
}

fn signal(signal: &str, processes: &[u32]) {
    if !processes.is_empty() {
        let mut kill = Command::new("kill");
        kill.arg(signal)
            .args(processes.iter().map(u32::to_string))
            .stderr(Stdio::null());
        // One that has ended already is as good.
        kill.status().unwrap();
    }
}

/// The child processes of a process.
pub fn children(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |process: &u32| {
        std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| {
            // After the name, which may contain anything: the state, then the parent.
            let fields = stat.rsplit(')').next().unwrap_or_default();
            fields.split_whitespace().nth(1) == Some(&parent.to_string())
        })
    };
    numbers.filter(is_child).collect()
}
