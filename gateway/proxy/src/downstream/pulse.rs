//! Whether the threads that serve requests run: each is asked, and answers from its own loop. A thread that is stuck, or
//! has more to do than it gets done, answers late or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, watch};

#[derive(Debug)]
pub(super) struct Pulse {
    /// The number of the newest question.
    asked: watch::Sender<u64>,
    /// The newest question that each runtime has answered.
    answered: Box<[AtomicU64]>,
    news: Notify,
}

impl Pulse {
    pub(super) fn new(runtimes: usize) -> Arc<Pulse> {
        let answered = (0..runtimes).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Pulse { asked: watch::Sender::new(0), answered, news: Notify::new() })
    }

    /// Waits until every runtime has answered a question that is asked now.
    pub(super) async fn ask(&self) {
        let mut number = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        loop {
            let news = self.news.notified();
            if self.answered.iter().all(|answer| answer.load(Ordering::Acquire) >= number) {
                return;
            }
            news.await;
        }
    }

    /// Answers for one runtime, within it, for as long as it runs.
    pub(super) async fn answer(self: Arc<Pulse>, index: usize) {
        let mut asked = self.asked.subscribe();
        loop {
            let number = *asked.borrow_and_update();
            if let Some(answer) = self.answered.get(index) {
                answer.store(number, Ordering::Release);
            }
            self.news.notify_waiters();
            if asked.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn a_question_is_answered_when_the_last_runtime_has_answered_it() {
        let pulse = Pulse::new(2);
        tokio::spawn(pulse.clone().answer(0));
        let asking = pulse.clone();
        let mut asked = tokio::spawn(async move { asking.ask().await });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!((&mut asked).now_or_never().is_none(), "the second runtime says nothing");
        tokio::spawn(pulse.clone().answer(1));
        asked.await.unwrap();
    }
}
