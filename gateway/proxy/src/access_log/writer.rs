//! The thread that writes lines, and the queue before it.

use crate::metrics::RequestMetrics;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::Duration;
use thiserror::Error;

/// Lines that may wait. At 600 bytes a line: 10 MiB.
const QUEUE: usize = 16 * 1024;
/// Bytes that are written at once.
const CHUNK: usize = 64 * 1024;
/// While there is traffic the writer looks at the queue this often, so that no request has to wake it.
const TICK: Duration = Duration::from_millis(20);
/// Empty looks after which it waits to be woken. 50 ticks: a second.
const IDLE_TICKS: u32 = 50;

#[derive(Debug, Error)]
pub enum AccessLogError {
    #[error("access log {path} cannot be opened: {source}; make its folder writable or log to standard output")]
    Open { path: String, source: io::Error },
    #[error("the access log's thread cannot be started: {0}")]
    Thread(io::Error),
}

/// Where lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLogTarget {
    #[default]
    Stdout,
    /// Appended to; [`AccessLogWriter::reopen`] opens it anew after it was moved away.
    File(PathBuf),
}

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
    Reopen,
}

/// The sending end. Cheap to clone.
#[derive(Clone)]
pub struct AccessLogWriter {
    queue: SyncSender<Message>,
    metrics: Arc<RequestMetrics>,
}

impl std::fmt::Debug for AccessLogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessLogWriter").finish_non_exhaustive()
    }
}

impl AccessLogWriter {
    /// Starts the thread `access-log`. It ends when the last clone is dropped and the queue is empty.
    ///
    /// # Errors
    /// [`AccessLogError`], where the file cannot be opened or the thread not be started.
    pub fn start(target: AccessLogTarget, metrics: Arc<RequestMetrics>) -> Result<Self, AccessLogError> {
        let sink = open(&target)?;
        let (queue, lines) = sync_channel(QUEUE);
        let writer = Writer { lines, target, sink, buffer: Vec::with_capacity(CHUNK), broken: false };
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || writer.run())
            .map_err(AccessLogError::Thread)?;
        Ok(AccessLogWriter { queue, metrics })
    }

    /// Hands a line over, or drops and counts it where the queue is full. Never waits.
    pub fn write(&self, line: Vec<u8>) {
        match self.queue.try_send(Message::Line(line)) {
            Ok(()) => self.metrics.log_line(),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.metrics.log_line_dropped(),
        }
    }

    /// Waits until what was handed over before is written, at most `patience`. Blocks: for shutdown and tests.
    pub fn flush(&self, patience: Duration) {
        let (done, wait) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            // Whether it came in time changes nothing for the caller.
            let _ = wait.recv_timeout(patience);
        }
    }

    /// Opens the file anew, for whoever moves it away (logrotate).
    pub fn reopen(&self) {
        // A full queue means that the log is behind anyway; the caller asks again.
        let _ = self.queue.try_send(Message::Reopen);
    }
}

fn open(target: &AccessLogTarget) -> Result<Box<dyn Write + Send>, AccessLogError> {
    match target {
        AccessLogTarget::Stdout => Ok(Box::new(io::stdout())),
        AccessLogTarget::File(path) => {
            let file: File = OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|source| AccessLogError::Open { path: path.display().to_string(), source })?;
            Ok(Box::new(file))
        }
    }
}

struct Writer {
    lines: Receiver<Message>,
    target: AccessLogTarget,
    sink: Box<dyn Write + Send>,
    buffer: Vec<u8>,
    /// The last write failed; said once, not for each line.
    broken: bool,
}

impl Writer {
    fn run(mut self) {
        let mut idle = 0;
        loop {
            match self.lines.try_recv() {
                Ok(message) => {
                    idle = 0;
                    self.take(message);
                    continue;
                }
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => self.write_out(),
            }
            if idle < IDLE_TICKS {
                idle += 1;
                std::thread::sleep(TICK);
            } else {
                match self.lines.recv() {
                    Ok(message) => {
                        idle = 0;
                        self.take(message);
                    }
                    Err(_) => break,
                }
            }
        }
        self.write_out();
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Line(line) => {
                self.buffer.extend_from_slice(&line);
                if self.buffer.len() >= CHUNK {
                    self.write_out();
                }
            }
            Message::Flush(done) => {
                self.write_out();
                // Whoever asked may have gone.
                let _ = done.try_send(());
            }
            Message::Reopen => {
                self.write_out();
                match open(&self.target) {
                    Ok(sink) => self.sink = sink,
                    Err(error) => tracing::error!(%error, "the access log goes on in its former file"),
                }
            }
        }
    }

    fn write_out(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let written = self.sink.write_all(&self.buffer).and_then(|()| self.sink.flush());
        self.buffer.clear();
        match written {
            Ok(()) => self.broken = false,
            Err(error) => {
                if !self.broken {
                    tracing::error!(%error, "access log lines are lost: they cannot be written");
                }
                self.broken = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_in_the_file_once_it_was_flushed_and_a_moved_file_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let metrics = Arc::new(RequestMetrics::default());
        let log = AccessLogWriter::start(AccessLogTarget::File(path.clone()), metrics).unwrap();
        log.write(b"one\n".to_vec());
        log.write(b"two\n".to_vec());
        log.flush(Duration::from_secs(10));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        std::fs::rename(&path, folder.path().join("access.log.1")).unwrap();
        log.reopen();
        log.write(b"three\n".to_vec());
        log.flush(Duration::from_secs(10));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn what_the_queue_cannot_take_is_dropped_and_counted() {
        let metrics = Arc::new(RequestMetrics::default());
        let (queue, _never_read) = sync_channel(1);
        let log = AccessLogWriter { queue, metrics: metrics.clone() };
        log.write(b"one\n".to_vec());
        log.write(b"two\n".to_vec());
        assert_eq!(metrics.log_lines_dropped(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let target = AccessLogTarget::File("/no/such/folder/access.log".into());
        let error = AccessLogWriter::start(target, Arc::default()).unwrap_err();
        assert!(error.to_string().contains("/no/such/folder/access.log"), "{error}");
    }
}
