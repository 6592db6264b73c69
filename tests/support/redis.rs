//! A Redis of the test's own, and the few commands that a test needs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A Redis server on a free port of the loopback interface, with nothing on disk. Ends when it is dropped, after a panic
/// too.
pub struct Redis {
    process: Child,
    port: u16,
    connection: BufReader<TcpStream>,
    _directory: tempfile::TempDir,
}

/// An answer of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Nil,
    Integer(i64),
    Bytes(Vec<u8>),
    List(Vec<Answer>),
}

impl Redis {
    /// Starts one; `None` when there is no `redis-server` on this machine.
    pub fn start() -> Option<Self> {
        let works = Command::new("redis-server")
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        works.is_ok_and(|status| status.success()).then_some(())?;
        // Another process may take the port between the choice and the start.
        (0..5)
            .find_map(|_| Self::try_start())
            .or_else(|| panic!("redis-server does not start"))
    }

    fn try_start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut process = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .arg("--dir")
            .arg(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(10) {
            if let Ok(connection) = TcpStream::connect(("127.0.0.1", port))
                // A server that ended could not take the port: whoever answers there is not ours.
                && process.try_wait().unwrap().is_none()
            {
                let connection = BufReader::new(connection);
                return Some(Self {
                    process,
                    port,
                    connection,
                    _directory: directory,
                });
            }
            if process.try_wait().unwrap().is_some() {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = process.kill();
        let _ = process.wait();
        None
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Runs a command (RESP 2).
    pub fn run(&mut self, command: &[&[u8]]) -> Answer {
        let mut request = format!("*{}\r\n", command.len()).into_bytes();
        for part in command {
            request.extend(format!("${}\r\n", part.len()).into_bytes());
            request.extend(*part);
            request.extend(b"\r\n");
        }
        self.connection.get_mut().write_all(&request).unwrap();
        self.read()
    }

    /// A second connection, which is told every command that the server gets from now on.
    pub fn monitor(&self) -> Monitor {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        connection.write_all(b"MONITOR\r\n").unwrap();
        let mut monitor = Monitor {
            connection: BufReader::new(connection),
        };
        assert_eq!(monitor.line(), "+OK");
        monitor
    }

    fn read(&mut self) -> Answer {
        let mut line = String::new();
        self.connection.read_line(&mut line).unwrap();
        let (kind, rest) = line.trim_end().split_at(1);
        match kind {
            "+" => Answer::Bytes(rest.as_bytes().to_vec()),
            ":" => Answer::Integer(rest.parse().unwrap()),
            "$" if rest == "-1" => Answer::Nil,
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().unwrap() + 2];
                self.connection.read_exact(&mut bytes).unwrap();
                bytes.truncate(bytes.len() - 2);
                Answer::Bytes(bytes)
            }
            "*" if rest == "-1" => Answer::Nil,
            "*" => {
                let len: usize = rest.parse().unwrap();
                Answer::List((0..len).map(|_| self.read()).collect())
            }
            _ => panic!("Redis says {line:?}"),
        }
    }
}

/// What the server says that it gets (`MONITOR`).
pub struct Monitor {
    connection: BufReader<TcpStream>,
}

impl Monitor {
    /// The parts of the next command whose name is that one.
    pub fn next(&mut self, name: &str) -> Vec<Vec<u8>> {
        loop {
            let command = parts(&self.line());
            if command[0].eq_ignore_ascii_case(name.as_bytes()) {
                return command;
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.connection.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

/// `+1700000000.000000 [0 127.0.0.1:50000] "LPUSH" "celery" "\"quoted\" \xff"`: its parts, as they were.
fn parts(line: &str) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    let mut bytes = line.bytes().skip_while(|byte| *byte != b'"');
    while bytes.next().is_some() {
        let mut part = Vec::new();
        loop {
            match bytes.next().unwrap() {
                b'"' => break,
                b'\\' => part.push(match bytes.next().unwrap() {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'a' => 7,
                    b'b' => 8,
                    b'x' => {
                        let mut digit =
                            || char::from(bytes.next().unwrap()).to_digit(16).unwrap() as u8;
                        digit() * 16 + digit()
                    }
                    other => other,
                }),
                other => part.push(other),
            }
        }
        parts.push(part);
        // The blank before the next one.
        bytes.next();
    }
    parts
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It is our own child, and not waited for yet, so that its id cannot be another process'.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
