//! The thread that writes lines, and the queue before it.

use crate::downstream::DownstreamMetrics;
use crate::metrics::RequestMetrics;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Lines that may wait. At 600 bytes a line: 10 MiB.
const QUEUE: usize = 16 * 1024;
/// Bytes that are written at once.
const CHUNK: usize = 64 * 1024;
/// While there is traffic the writer looks at the queue this often, so that no request has to wake it.
const TICK: Duration = Duration::from_millis(20);
/// Before the writer goes on after a panic.
const PAUSE: Duration = Duration::from_millis(100);
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
    /// Only wakes the writer.
    Look,
}

/// The sending end. Cheap to clone.
#[derive(Clone)]
pub struct AccessLogWriter {
    queue: SyncSender<Message>,
    /// The file is to be opened anew. Not a message: a full queue must not lose it.
    reopen: Arc<AtomicBool>,
    metrics: Arc<RequestMetrics>,
}

impl std::fmt::Debug for AccessLogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessLogWriter").finish_non_exhaustive()
    }
}

impl AccessLogWriter {
    /// Starts the thread `access-log`. It ends when the last clone is dropped and the queue is empty; a panic in it is
    /// counted (`sluice_task_restarts_total{task="access-log"}`), and it goes on.
    ///
    /// # Errors
    /// [`AccessLogError`], where the file cannot be opened or the thread not be started.
    pub fn start(
        target: AccessLogTarget,
        metrics: Arc<RequestMetrics>,
        tasks: DownstreamMetrics,
    ) -> Result<Self, AccessLogError> {
        let sink = open(&target)?;
        AccessLogWriter::to(sink, target, metrics, tasks)
    }

    fn to(
        sink: Box<dyn Write + Send>,
        target: AccessLogTarget,
        metrics: Arc<RequestMetrics>,
        tasks: DownstreamMetrics,
    ) -> Result<Self, AccessLogError> {
        let (queue, lines) = sync_channel(QUEUE);
        let reopen = Arc::new(AtomicBool::new(false));
        let mut writer = Writer {
            lines,
            reopen: reopen.clone(),
            metrics: metrics.clone(),
            target,
            sink,
            buffer: Vec::with_capacity(CHUNK),
            broken: false,
        };
        let run = move || {
            // What the writer holds can be used as it is: a chunk whose write panicked is given up.
            while catch_unwind(AssertUnwindSafe(|| writer.run())).is_err() {
                tasks.restart("access-log");
                writer.give_up();
                std::thread::sleep(PAUSE);
            }
        };
        std::thread::Builder::new().name("access-log".into()).spawn(run).map_err(AccessLogError::Thread)?;
        Ok(AccessLogWriter { queue, reopen, metrics })
    }

    /// Hands a line over, or drops and counts it where the queue is full. Never waits.
    pub fn write(&self, line: Vec<u8>) {
        match self.queue.try_send(Message::Line(line)) {
            Ok(()) => self.metrics.log_line(),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.metrics.log_lines_lost(1),
        }
    }

    /// Waits until what was handed over before is written, at most `patience`. Blocks: for shutdown and tests.
    pub fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let (done, wait) = sync_channel(1);
        let mut message = Message::Flush(done);
        loop {
            match self.queue.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return,
                // The queue is full of lines that are to be waited for.
                Err(TrySendError::Full(back)) if Instant::now() < deadline => {
                    message = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(TrySendError::Full(_)) => return,
            }
        }
        // Whether it came in time changes nothing for the caller.
        let _ = wait.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }

    /// Opens the file anew, for whoever moves it away (logrotate). Lines that wait come to stand in the new one.
    pub fn reopen(&self) {
        self.reopen.store(true, Release);
        // Where the queue is full, the writer is at work and sees it.
        let _ = self.queue.try_send(Message::Look);
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
    reopen: Arc<AtomicBool>,
    metrics: Arc<RequestMetrics>,
    target: AccessLogTarget,
    sink: Box<dyn Write + Send>,
    buffer: Vec<u8>,
    /// The last write failed; said once, not for each line.
    broken: bool,
}

impl Writer {
    fn run(&mut self) {
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
        // What was handed over after it was asked for stands in the new file.
        if self.reopen.load(Acquire) {
            self.open_anew();
        }
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
            Message::Look => {}
        }
    }

    fn open_anew(&mut self) {
        self.write_out();
        self.reopen.store(false, Release);
        match open(&self.target) {
            Ok(sink) => self.sink = sink,
            Err(error) => tracing::error!(%error, "the access log goes on in its former file"),
        }
    }

    fn write_out(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        match self.sink.write_all(&self.buffer).and_then(|()| self.sink.flush()) {
            Ok(()) => {
                self.buffer.clear();
                self.broken = false;
            }
            Err(error) => {
                if !self.broken {
                    tracing::error!(%error, "access log lines are lost: they cannot be written");
                }
                self.broken = true;
                self.give_up();
            }
        }
    }

    /// What is in the buffer is not written.
    fn give_up(&mut self) {
        let lines = self.buffer.iter().filter(|byte| **byte == b'\n').count();
        self.metrics.log_lines_lost(lines as u64);
        self.buffer.clear();
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
        let log =
            AccessLogWriter::start(AccessLogTarget::File(path.clone()), metrics, DownstreamMetrics::default()).unwrap();
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
        let log = AccessLogWriter { queue, reopen: Arc::default(), metrics: metrics.clone() };
        log.write(b"one\n".to_vec());
        log.write(b"two\n".to_vec());
        assert_eq!(metrics.log_lines_dropped(), 1);
    }

    /// A sink that lets nothing through until it is told to, and then does what it is told.
    struct Gated {
        gate: Receiver<()>,
        open: bool,
        panics: bool,
        written: Arc<std::sync::Mutex<Vec<u8>>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.open {
                self.gate.recv().unwrap();
                self.open = true;
            }
            assert!(!std::mem::take(&mut self.panics), "a fault of the sink");
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Written = Arc<std::sync::Mutex<Vec<u8>>>;

    fn gated(
        panics: bool,
        target: AccessLogTarget,
        tasks: &DownstreamMetrics,
    ) -> (AccessLogWriter, SyncSender<()>, Written, Arc<RequestMetrics>) {
        let (open, gate) = sync_channel(1);
        let (written, metrics) = (Written::default(), Arc::new(RequestMetrics::default()));
        let sink = Gated { gate, open: false, panics, written: written.clone() };
        let log = AccessLogWriter::to(Box::new(sink), target, metrics.clone(), tasks.clone()).unwrap();
        (log, open, written, metrics)
    }

    /// Writes until nothing more is taken.
    fn fill(log: &AccessLogWriter, metrics: &RequestMetrics) -> u64 {
        let mut lines = 0;
        while metrics.log_lines_dropped() == 0 {
            log.write(vec![b'\n'; 64]);
            lines += 1;
        }
        lines - 1
    }

    #[test]
    fn a_flush_waits_for_its_place_in_a_full_queue_and_a_reopening_needs_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let target = AccessLogTarget::File(path.clone());
        let (log, open, written, metrics) = gated(false, target, &DownstreamMetrics::default());
        let lines = fill(&log, &metrics);
        log.reopen();
        open.send(()).unwrap();
        log.flush(Duration::from_secs(20));
        let moved = std::fs::read(&path).unwrap_or_default().len();
        assert_eq!((written.lock().unwrap().len() + moved) as u64, lines * 64);
        assert!(path.exists(), "it was opened anew");
    }

    #[test]
    fn a_panic_of_the_writer_is_counted_and_the_log_goes_on() {
        let tasks = DownstreamMetrics::default();
        let (log, open, written, metrics) = gated(true, AccessLogTarget::Stdout, &tasks);
        log.write(b"lost\n".to_vec());
        open.send(()).unwrap();
        log.flush(Duration::from_secs(20));
        log.write(b"kept\n".to_vec());
        log.flush(Duration::from_secs(20));
        assert_eq!(*written.lock().unwrap(), b"kept\n");
        assert_eq!(metrics.log_lines_dropped(), 1);
        assert_eq!(tasks.restarts_of("access-log"), 1);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let target = AccessLogTarget::File("/no/such/folder/access.log".into());
        let error = AccessLogWriter::start(target, Arc::default(), DownstreamMetrics::default()).unwrap_err();
        assert!(error.to_string().contains("/no/such/folder/access.log"), "{error}");
    }
}
