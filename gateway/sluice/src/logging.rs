//! The gateway's own log, on standard error. (The access log is the data plane's.)
//!
//! Lines are written by a thread of their own: whoever logs never waits for whoever reads standard error. What the queue
//! cannot take is dropped and counted (`sluice_log_dropped_total`).

use clap::ValueEnum;
use prometheus_client::metrics::counter::Counter;
use sluice_admin::LogFilter;
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, reload};

/// Lines that may wait. At 200 bytes a line: 1 MiB.
const QUEUE: usize = 4 * 1024;
/// How long the last lines may take to be written at the end.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

/// The log while it runs. Dropped, what waits is written.
pub(crate) struct Log {
    /// Exchanges the filter at run time.
    pub(crate) filter: LogFilter,
    /// Lines that were dropped.
    pub(crate) dropped: Counter,
    lines: Lines,
}

impl Drop for Log {
    fn drop(&mut self) {
        self.lines.flush(PATIENCE);
    }
}

/// Starts logging.
pub(crate) fn start(format: LogFormat, filter: &str) -> anyhow::Result<Log> {
    let (filter, handle) = reload::Layer::new(EnvFilter::builder().parse(filter)?);
    let lines = Lines::start(io::stderr())?;
    let output = fmt::layer().with_writer(lines.clone());
    let output = match format {
        LogFormat::Text => output.with_ansi(io::stderr().is_terminal()).with_target(false).boxed(),
        LogFormat::Json => output.json().flatten_event(true).with_current_span(false).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(output).try_init()?;
    Ok(Log { filter: handle, dropped: lines.dropped.clone(), lines })
}

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The sending end of the queue.
#[derive(Clone)]
struct Lines {
    queue: SyncSender<Message>,
    dropped: Counter,
}

impl Lines {
    fn start(sink: impl Write + Send + 'static) -> io::Result<Lines> {
        let (queue, messages) = sync_channel(QUEUE);
        std::thread::Builder::new().name("log".into()).spawn(move || write_out(&messages, sink))?;
        Ok(Lines { queue, dropped: Counter::default() })
    }

    /// Waits until what was handed over before is written, at most `patience`.
    fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let (done, wait) = sync_channel(1);
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(back)) = self.queue.try_send(message) {
            if Instant::now() >= deadline {
                return;
            }
            message = back;
            std::thread::sleep(Duration::from_millis(1));
        }
        // Whether it came in time changes nothing: there is nowhere to tell it.
        let _ = wait.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

fn write_out(messages: &Receiver<Message>, mut sink: impl Write) {
    while let Ok(message) = messages.recv() {
        match message {
            // Where standard error is gone, there is nowhere to tell it.
            Message::Line(line) => drop(sink.write_all(&line)),
            Message::Flush(done) => {
                let _ = sink.flush();
                // Whoever asked may have gone.
                let _ = done.try_send(());
            }
        }
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Lines;

    fn make_writer(&'a self) -> &'a Lines {
        self
    }
}

/// Each write is a whole line: so the formatter hands its events over.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            self.dropped.inc();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex, mpsc};

    /// Lets nothing through until it is told to.
    struct Stalled(mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // An error: it may go on for good.
            let _ = self.0.recv();
            self.1.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stalls_holds_nobody_up_and_what_it_misses_is_counted() {
        let (go_on, told) = mpsc::sync_channel::<()>(1);
        let written = Arc::new(Mutex::new(Vec::new()));
        let lines = Lines::start(Stalled(told, written.clone())).unwrap();
        let sent = 2 * QUEUE as u64;
        for _ in 0..sent {
            (&lines).write_all(b"x").unwrap();
        }
        assert!(lines.dropped.get() >= sent - QUEUE as u64 - 1);
        drop(go_on);
        lines.flush(Duration::from_secs(20));
        assert_eq!(written.lock().unwrap().len() as u64, sent - lines.dropped.get());
    }
}
