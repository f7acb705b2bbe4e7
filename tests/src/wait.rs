//! Waiting for a condition, with a deadline that says what was waited for.

use std::time::{Duration, Instant};

/// Long enough for a debug build on a busy machine; a test that meets it has failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Calls `probe` until it gives something, and returns that. Panics with `what` after [`DEADLINE`].
pub async fn until<T, F>(what: &str, probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    until_within(DEADLINE, what, probe).await
}

/// As [`until`], with a deadline of its own.
pub async fn until_within<T, F>(deadline: Duration, what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
