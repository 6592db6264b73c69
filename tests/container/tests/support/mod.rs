//! SoftHSM in a container, behind `p11-kit server` on a unix socket in a directory that host and container share.
#![allow(dead_code, unreachable_pub)]

#[path = "../../../support/python.rs"]
pub mod python;
#[path = "../../../support/softhsm.rs"]
pub mod softhsm;
#[path = "../../../support/spy.rs"]
pub mod spy;

use std::ffi::OsStr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use taskseal::pkcs11::{self, Builder, NewKey, Pin, PinSource};
use testcontainers::core::Mount;
use testcontainers::runners::SyncRunner as _;
use testcontainers::{Container, GenericImage, ImageExt as _};

pub use softhsm::PIN;

const IMAGE: &str = "TASKSEAL_SOFTHSM_IMAGE";
const DIRECTORY: &str = "TASKSEAL_TEST_CONTAINERS";
/// The label of the token and of the key.
pub const LABEL: &str = "lab";

/// What runs in the container. The token is in its file system, which a restart keeps.
const SERVE: &str = r#"set -e
umask 000
export SOFTHSM2_CONF=/token/softhsm2.conf
if [ ! -f "$SOFTHSM2_CONF" ]; then
    mkdir -p /token/tokens
    echo "directories.tokendir = /token/tokens" > "$SOFTHSM2_CONF"
    softhsm2-util --init-token --free --label lab --so-pin 87654321 --pin 12345678
fi
rm -f /shared/socket
exec p11-kit server --provider /usr/lib/softhsm/libsofthsm2.so --name /shared/socket -f pkcs11:token=lab
"#;

/// Runs `test` in a process of its own, in which p11-kit-client speaks to the socket that [`World::use_server`] names.
/// Says so and passes when there is no Docker engine, except with `CI=true`, where it fails.
pub fn test<F: FnOnce(&World)>(test: F) {
    let name = softhsm::name_of::<F>();
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return test(&World {
            directory: directory.into(),
            image: std::env::var(IMAGE).unwrap(),
        });
    }
    let image = match image() {
        Ok(image) => image,
        Err(reason) => return python::skip(name, reason),
    };
    // A path of a unix socket has at most 107 bytes.
    let directory = tempfile::Builder::new().prefix("ts").tempdir().unwrap();
    let at = |socket: &str| format!("unix:path={}", directory.path().join(socket).display());
    let [shared, a, b] = ["socket", "a/socket", "b/socket"].map(at);
    softhsm::run_again(
        name,
        directory.path(),
        &[
            (DIRECTORY, directory.path().as_os_str()),
            (IMAGE, OsStr::new(image)),
            (ADDRESS, OsStr::new(&shared)),
            (&address_of("a"), OsStr::new(&a)),
            (&address_of("b"), OsStr::new(&b)),
        ],
    );
}

/// The name of the image, which is made when it is not there.
fn image() -> Result<&'static str, &'static str> {
    static IMAGE_NAME: OnceLock<Result<String, String>> = OnceLock::new();
    let made = IMAGE_NAME.get_or_init(|| {
        if client_module().is_none() {
            return Err("no p11-kit-client.so; install p11-kit-modules".to_owned());
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/softhsm-image");
        let output = Command::new(script).output().map_err(|e| e.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    });
    made.as_deref().map_err(String::as_str)
}

/// Names the socket that p11-kit-client speaks to. Read with each `C_GetFunctionList`, so it has to stay as it is.
const ADDRESS: &str = "P11_KIT_SERVER_ADDRESS";

/// The variable that the module for one server reads instead, with a name as long.
fn address_of(server: &str) -> String {
    ADDRESS[..ADDRESS.len() - 1].to_owned() + server
}

fn client_module() -> Option<PathBuf> {
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    [multiarch.as_str(), "/usr/lib64"]
        .into_iter()
        .map(|directory| Path::new(directory).join("pkcs11/p11-kit-client.so"))
        .find(|path| path.is_file())
}

/// The directory of one test, and the socket that its process speaks to.
#[derive(Debug)]
pub struct World {
    directory: PathBuf,
    image: String,
}

impl World {
    /// Starts a container with a token of its own.
    pub fn server(&self, name: &str) -> Server {
        let shared = self.directory.join(name);
        std::fs::create_dir(&shared).unwrap();
        let (image, tag) = self.image.rsplit_once(':').unwrap();
        let container = GenericImage::new(image, tag)
            .with_cmd(["sh", "-c", SERVE])
            .with_mount(Mount::bind_mount(shared.to_str().unwrap(), "/shared"))
            .with_network("none")
            .start()
            .unwrap();
        let server = Server { container, shared };
        server.wait();
        server
    }

    /// From now on new connections go to this server.
    pub fn use_server(&self, server: &Server) {
        let fresh = self.directory.join("fresh");
        std::os::unix::fs::symlink(server.shared.join("socket"), &fresh).unwrap();
        std::fs::rename(fresh, self.directory.join("socket")).unwrap();
    }

    /// A builder with the module, the token and the PIN.
    pub fn builder(&self) -> Builder {
        Self::builder_through(&client_module().unwrap())
    }

    /// A builder for the key of this server, `a` or `b`, whatever [`use_server`](Self::use_server) says: through a copy of
    /// the module, which is another module and reads its address from a variable of its own, so that one process speaks to
    /// two servers at once.
    pub fn builder_for(&self, server: &Server) -> Builder {
        let name = server.shared.file_name().unwrap().to_str().unwrap();
        let (theirs, own) = (ADDRESS.as_bytes(), address_of(name));
        let mut module = std::fs::read(client_module().unwrap()).unwrap();
        let at = module.windows(theirs.len()).position(|word| word == theirs);
        let at = at.unwrap();
        module[at..at + theirs.len()].copy_from_slice(own.as_bytes());
        let copy = server.shared.join("module.so");
        std::fs::write(&copy, module).unwrap();
        Self::builder_through(&copy)
    }

    fn builder_through(module: &Path) -> Builder {
        Builder::new()
            .module_path(module)
            .token_label(LABEL)
            .object_label(LABEL)
            .pin(PinSource::Value(Pin::new(PIN).unwrap()))
    }

    /// Generates the key.
    pub fn generate(&self) {
        let key = NewKey {
            bits: 2048,
            label: LABEL.to_owned(),
            id: None,
        };
        pkcs11::generate_key(&self.builder(), &key).unwrap();
    }
}

/// A container with a token. Removed when dropped.
#[derive(Debug)]
pub struct Server {
    container: Container<GenericImage>,
    shared: PathBuf,
}

impl Server {
    /// Freezes all its processes: connections stay, and nobody answers.
    pub fn pause(&self) {
        self.docker("pause");
    }

    pub fn unpause(&self) {
        self.docker("unpause");
    }

    /// Ends it with SIGKILL.
    pub fn kill(&self) {
        self.docker("kill");
    }

    /// Starts it again, with its token, and waits until it answers.
    pub fn restart(&self) {
        // What was left by the one that was killed would answer too early.
        let _ = std::fs::remove_file(self.shared.join("socket"));
        self.docker("start");
        self.wait();
    }

    fn docker(&self, command: &str) {
        let mut docker = Command::new("docker");
        let output = docker.args([command, self.container.id()]).output();
        let output = output.unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {command}: {error}");
    }

    /// Makes a key in the container, whatever the host's process speaks to.
    pub fn generate(&self, label: &str) {
        let command = format!(
            "SOFTHSM2_CONF=/token/softhsm2.conf pkcs11-tool --module /usr/lib/softhsm/libsofthsm2.so \
             --token-label {LABEL} --login --pin {PIN} --keypairgen --key-type rsa:2048 --label {label} --id 01 --sensitive"
        );
        let mut docker = Command::new("docker");
        docker.args(["exec", self.container.id(), "sh", "-c", &command]);
        let output = docker.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "pkcs11-tool: {error}");
    }

    fn wait(&self) {
        let start = Instant::now();
        while UnixStream::connect(self.shared.join("socket")).is_err() {
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "the server does not start: {}",
                String::from_utf8_lossy(&self.container.stderr_to_vec().unwrap_or_default())
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
