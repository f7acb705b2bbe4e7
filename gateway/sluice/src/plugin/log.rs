//! The lines that a plugin logs, kept for whoever asks.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Lines that are kept between two looks.
const MAX_LINES: usize = 10_000;

/// What the host logs a plugin's lines under.
const TARGET: &str = "plugin";

#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Keeps the lines of all plugins of this process from now on.
    pub(crate) fn keep() -> anyhow::Result<Lines> {
        let lines = Lines::default();
        tracing_subscriber::registry().with(lines.clone()).try_init()?;
        Ok(lines)
    }

    /// The lines since it was asked before, each with its level: `info tenant acme`.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != TARGET {
            return;
        }
        let mut line = Line(event.metadata().level().as_str().to_ascii_lowercase());
        event.record(&mut line);
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < MAX_LINES {
            lines.push(line.0);
        }
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0.push_str(&format!(" {value:?}"));
        }
    }
}
