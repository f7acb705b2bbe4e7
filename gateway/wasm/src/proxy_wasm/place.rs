//! The place of a VM: one call at a time has it.

use super::vm::Vm;
use crate::aside::is_low_priority;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};

/// Those who wait get it in their order, but it is never given to one who does not run: whoever can't wait may find it free
/// although others do. A thread that serves may be at work on a piece of one exchange while another of its exchanges is
/// the next in line; a lock that were handed to that one would come free for neither.
pub(super) struct Place<T = Vm> {
    /// Only ever tried, so that it has no line of its own.
    vm: Arc<Mutex<Option<T>>>,
    /// The first in line has this.
    front: Mutex<()>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    freed: Notify,
    /// Whoever has it waits for something else, or lets another thread work.
    aside: AtomicBool,
}

/// A VM that nobody else has.
pub(super) struct Locked<T = Vm> {
    // The order of these fields is that of their drops.
    vm: OwnedMutexGuard<Option<T>>,
    freed: Freed,
}

/// Tells the first in line.
struct Freed(Arc<State>);

impl<T> Default for Place<T> {
    fn default() -> Place<T> {
        Place { vm: Arc::default(), front: Mutex::default(), state: Arc::default() }
    }
}

impl<T> Place<T> {
    /// At once or not at all, even if others wait.
    pub(super) fn try_lock(&self) -> Option<Locked<T>> {
        let vm = self.vm.clone().try_lock_owned().ok()?;
        let locked = Locked { vm, freed: Freed(self.state.clone()) };
        if is_low_priority() {
            locked.goes_aside();
        }
        Some(locked)
    }

    /// The same, unless others wait.
    pub(super) fn try_lock_in_turn(&self) -> Option<Locked<T>> {
        let _front = self.front.try_lock().ok()?;
        self.try_lock()
    }

    pub(super) async fn lock(&self) -> Locked<T> {
        let _front = self.front.lock().await;
        loop {
            // Asked for before the look, so that what comes free in between is not missed.
            let freed = self.state.freed.notified();
            if let Some(locked) = self.try_lock() {
                return locked;
            }
            freed.await;
        }
    }

    /// Whether whoever has it went aside. If not, it is at work on a thread that serves, or would be if its core were free: it
    /// waits for nothing else.
    pub(super) fn is_aside(&self) -> bool {
        self.state.aside.load(Ordering::Acquire)
    }
}

impl<T> Locked<T> {
    /// To be told before anything is waited for with it in hand.
    pub(super) fn goes_aside(&self) {
        self.freed.0.aside.store(true, Ordering::Release);
    }
}

impl<T> Deref for Locked<T> {
    type Target = Option<T>;

    fn deref(&self) -> &Option<T> {
        &self.vm
    }
}

impl<T> DerefMut for Locked<T> {
    fn deref_mut(&mut self) -> &mut Option<T> {
        &mut self.vm
    }
}

impl<T> Drop for Locked<T> {
    fn drop(&mut self) {
        // As long as nobody else can have it.
        self.freed.0.aside.store(false, Ordering::Release);
    }
}

impl Drop for Freed {
    fn drop(&mut self) {
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::Place;
    use futures::FutureExt;
    use std::pin::pin;

    #[test]
    fn whoever_cannot_wait_finds_it_free_although_another_is_next_in_line() {
        let place = Place::<u8>::default();
        let held = place.try_lock().unwrap();
        let mut next = pin!(place.lock());
        assert!(next.as_mut().now_or_never().is_none());
        assert!(place.try_lock().is_none());
        drop(held);
        let at_once = place.try_lock().expect("it is free");
        assert!(next.as_mut().now_or_never().is_none());
        drop(at_once);
        assert!(next.now_or_never().is_some(), "and then it is the next one's");
    }

    #[test]
    fn those_who_wait_get_it_in_their_order_and_new_ones_after_them() {
        let place = Place::<u8>::default();
        let held = place.try_lock_in_turn().unwrap();
        let mut second = Box::pin(place.lock());
        let mut third = Box::pin(place.lock());
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        drop(held);
        assert!(place.try_lock_in_turn().is_none(), "others came before");
        assert!(third.as_mut().now_or_never().is_none());
        let held = second.now_or_never().expect("the first in line");
        assert!(third.as_mut().now_or_never().is_none());
        drop(held);
        assert!(third.as_mut().now_or_never().is_some());
    }

    #[test]
    fn one_that_is_given_up_while_it_waits_keeps_nobody_from_it() {
        let place = Place::<u8>::default();
        let held = place.try_lock().unwrap();
        let mut first = Box::pin(place.lock());
        let mut second = Box::pin(place.lock());
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        drop(held);
        drop(first);
        assert!(second.as_mut().now_or_never().is_some());
    }

    #[test]
    fn it_tells_whether_it_went_aside() {
        let place = Place::<u8>::default();
        let held = place.try_lock().unwrap();
        assert!(!place.is_aside());
        held.goes_aside();
        assert!(place.is_aside());
        drop(held);
        assert!(!place.is_aside());
    }
}
