//! The task that keeps a filter's VMs: makes those that are needed, ticks, tells of queues, and ends what was given up.
//! It runs on the threads of low priority, and ends with its program.

use super::program::{Program, Slot};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

pub(super) async fn keep(program: Weak<Program>, bell: Arc<Notify>) {
    let mut ticks = Vec::new();
    loop {
        let next = match program.upgrade() {
            Some(program) => attend(&program, &mut ticks).await,
            None => return,
        };
        match next {
            Some(next) => drop(tokio::time::timeout_at(next.into(), bell.notified()).await),
            None => bell.notified().await,
        }
    }
}

/// The tick of one VM: of which, how often, and when the next one is due.
#[derive(Clone, Copy)]
struct Tick {
    number: u32,
    period: u64,
    due: Instant,
}

/// Does what is due, and says when something will be.
async fn attend(program: &Arc<Program>, ticks: &mut Vec<Option<Tick>>) -> Option<Instant> {
    ticks.resize(program.slots.len(), None);
    for (index, slot) in program.slots.iter().enumerate() {
        if slot.wanted.load(Ordering::Acquire) {
            fill(program, index, slot).await;
        }
        if slot.is_new.swap(false, Ordering::AcqRel) {
            let mut vm = slot.vm.lock().await;
            program.settle(index, slot, &mut vm, None);
        }
        let number = slot.number.load(Ordering::Acquire);
        while let Some((of, context)) = slot.left.pop() {
            let forget = move |vm: &mut super::vm::Vm| ((), vm.forget(context));
            program.callback(index, of, "on_delete", true, forget).await;
        }
        while let Some(queue) = slot.queues.ready.pop() {
            let tell = move |vm: &mut super::vm::Vm| ((), vm.queue_ready(queue));
            program.callback(index, number, "on_queue_ready", true, tell).await;
        }
        let Some(tick) = ticks.get_mut(index) else { continue };
        tick_of(program, index, slot, tick).await;
    }
    ticks.iter().flatten().map(|tick| tick.due).min()
}

/// Makes the VM of a slot that has none. A turn is never held while it waits for the slot, nor the slot while it waits for
/// a turn ([`Program::vm_and_way`]).
async fn fill(program: &Arc<Program>, index: usize, slot: &Slot) {
    slot.wanted.store(false, Ordering::Release);
    // It may have been wanted once more while it was being made.
    while slot.number.load(Ordering::Acquire) == 0 {
        let Ok(turn) = program.turn(None).await else { return };
        let Some(mut place) = slot.vm.try_lock_in_turn() else {
            drop(turn);
            drop(slot.vm.lock().await);
            continue;
        };
        // Whoever makes one gives it a number before anybody else can have it.
        if place.is_some() {
            return;
        }
        place.goes_aside();
        let making = program.clone();
        let made = program.aside(turn, move || making.slots.get(index).map(|slot| making.start(slot, None))).await;
        match made {
            Some(Some(Ok(vm))) => program.put(slot, &mut place, vm),
            Some(Some(Err(reason))) => program.not_made(reason),
            Some(None) | None => {}
        }
        return;
    }
}

async fn tick_of(program: &Arc<Program>, index: usize, slot: &Slot, tick: &mut Option<Tick>) {
    let (number, period) = (slot.number.load(Ordering::Acquire), slot.tick.load(Ordering::Acquire));
    if number == 0 || period == 0 {
        *tick = None;
        return;
    }
    let now = Instant::now();
    let next = now + Duration::from_millis(period);
    match tick {
        Some(known) if known.number == number && known.period == period => {
            if known.due <= now {
                program.callback(index, number, "on_tick", true, |vm| ((), vm.tick())).await;
                known.due = Instant::now().max(known.due + Duration::from_millis(period));
            }
        }
        _ => *tick = Some(Tick { number, period, due: next }),
    }
}
