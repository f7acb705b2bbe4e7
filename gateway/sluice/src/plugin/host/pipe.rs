//! Standard input and output, a message a line.

use super::protocol::ToHost;
use anyhow::{Context, Result};
use serde::Serialize;
use std::io::{self, BufRead, Write};
use tokio::sync::{Mutex, mpsc};

/// Lines that are read ahead: the other side waits for an answer to nearly each.
const AHEAD: usize = 4;

/// Bytes of a line. A body of `limits.bodyBuffer` that is all escapes has six times its size.
const MAX_LINE: u64 = 1 << 30;

pub(super) struct Pipe {
    lines: Mutex<mpsc::Receiver<io::Result<String>>>,
}

impl Pipe {
    /// From now on a thread of its own reads standard input: nothing else of the process waits for it.
    pub(super) fn open() -> Result<Pipe> {
        let (sender, lines) = mpsc::channel(AHEAD);
        let read = move || {
            let mut input = io::stdin().lock();
            loop {
                let mut line = String::new();
                let read = io::Read::take(&mut input, MAX_LINE).read_line(&mut line);
                let line = match read {
                    Ok(0) => return,
                    read => read.map(|_| line),
                };
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("tests".to_owned()).spawn(read)?;
        Ok(Pipe { lines: Mutex::new(lines) })
    }

    /// The next message; none: the tests are over.
    pub(super) async fn hear(&self) -> Result<Option<ToHost>> {
        let Some(line) = self.lines.lock().await.recv().await else { return Ok(None) };
        let line = line.context("standard input")?;
        serde_json::from_str(&line).map(Some).context("this is no message of a plugin's tests")
    }

    pub(super) fn say(&self, message: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let mut out = io::stdout().lock();
        out.write_all(&line).and_then(|()| out.flush()).context("standard output")
    }
}
