//! A real Redis of one test: on a socket of its own, in a folder of its own, ended with the test.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than a Redis takes to start on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// Killed when dropped.
pub struct Redis {
    child: Child,
    folder: tempfile::TempDir,
    arguments: Vec<String>,
}

impl Redis {
    /// One that is reached by its [`Redis::socket`], and otherwise as `arguments` say: `--port 4711`.
    ///
    /// # Panics
    /// Where there is no `redis-server`: `scripts/setup-redis.sh` installs it.
    pub fn start(arguments: &[&str]) -> Redis {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let child = spawn(folder.path(), &arguments);
        let redis = Redis { child, folder, arguments };
        redis.ready();
        redis
    }

    /// A Unix socket, besides what the arguments say.
    pub fn socket(&self) -> PathBuf {
        socket(self.folder.path())
    }

    /// Ends it at once (SIGKILL); what it held is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is there to be killed");
        self.child.wait().expect("it ends");
    }

    /// Starts it again where it was.
    pub fn start_again(&mut self) {
        // One that was killed leaves its socket.
        let _ = std::fs::remove_file(self.socket());
        self.child = spawn(self.folder.path(), &self.arguments);
        self.ready();
    }

    /// The process, for signals.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The answer to a command of plain words, as it is on the wire.
    pub fn ask(&self, command: &str) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.strip_suffix("+OK\r\n").unwrap_or(&answer).to_owned())
    }

    fn ready(&self) {
        let until = Instant::now() + PATIENCE;
        // One with a password answers that it wants it.
        while !self.ask("PING").is_ok_and(|answer| answer.starts_with(['+', '-'])) {
            assert!(Instant::now() < until, "redis-server does not answer: {:?}", self.arguments);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("redis.sock")
}

fn spawn(folder: &Path, arguments: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    command.arg("--unixsocket").arg(socket(folder)).arg("--dir").arg(folder);
    command.args(["--save", "", "--appendonly", "no", "--loglevel", "warning", "--bind", "127.0.0.1"]);
    if !arguments.iter().any(|argument| argument == "--port") {
        command.args(["--port", "0"]);
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("redis-server starts; scripts/setup-redis.sh installs it")
}
