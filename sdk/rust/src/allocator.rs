//! The allocator that makes a fresh instance cheap.
//!
//! Each instance starts from an image of the configured memory; what it writes is copied page by page. So allocations
//! come from a static arena first, one after the other, on few pages, and without growing the memory (which takes a
//! lock in the gateway). What does not fit goes to the standard allocator.
//!
//! The arena is taken back as a whole, when the last allocation made since configure is freed: a reused instance whose
//! calls keep nothing stays within it for good.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};

/// Bytes of the arena: the configuration's, and those of one call.
const SIZE: usize = 64 << 10;

#[repr(align(16))]
struct Memory(UnsafeCell<[u8; SIZE]>);

struct Arena {
    memory: Memory,
    /// Offset of the first free byte.
    next: Cell<usize>,
    /// Offset up to which allocations are kept for good.
    kept: Cell<usize>,
    /// Allocations above `kept` that were not freed.
    live: Cell<usize>,
}

// SAFETY: a guest of wasm32-unknown-unknown has one thread.
unsafe impl Sync for Arena {}

#[global_allocator]
static ARENA: Arena =
    Arena { memory: Memory(UnsafeCell::new([0; SIZE])), next: Cell::new(0), kept: Cell::new(0), live: Cell::new(0) };

/// Keeps what is allocated now for as long as the instance lives.
pub(crate) fn keep() {
    ARENA.kept.set(ARENA.next.get());
    ARENA.live.set(0);
}

impl Arena {
    fn base(&self) -> *mut u8 {
        self.memory.0.get().cast()
    }

    /// Where in the arena `pointer` is.
    fn offset(&self, pointer: *mut u8) -> Option<usize> {
        let offset = (pointer as usize).wrapping_sub(self.base() as usize);
        (offset < SIZE).then_some(offset)
    }
}

// SAFETY: blocks are handed out at rising offsets and never overlap; the offset falls only when the last block is freed
// or when none above `kept` is in use.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self.next.get().next_multiple_of(layout.align());
        let end = start.saturating_add(layout.size());
        // The arena is aligned to 16: beyond, offsets say nothing about addresses.
        if layout.align() > 16 || end > SIZE {
            // SAFETY: the caller's promise, passed on.
            return unsafe { System.alloc(layout) };
        }
        self.next.set(end);
        self.live.set(self.live.get() + 1);
        // SAFETY: start <= end <= SIZE.
        unsafe { self.base().add(start) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some(offset) = self.offset(pointer) else {
            // SAFETY: not from the arena, so from there.
            return unsafe { System.dealloc(pointer, layout) };
        };
        if offset < self.kept.get() {
            return;
        }
        let live = self.live.get() - 1;
        self.live.set(live);
        if live == 0 {
            self.next.set(self.kept.get());
        } else if offset + layout.size() == self.next.get() {
            self.next.set(offset);
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if let Some(offset) = self.offset(pointer) {
            // The last block grows where it is.
            let last = offset + layout.size() == self.next.get() && offset >= self.kept.get();
            if last && offset.saturating_add(size) <= SIZE {
                self.next.set(offset + size);
                return pointer;
            }
            // SAFETY: the caller promises that the layout is valid for `size`.
            let new = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
            if !new.is_null() {
                // SAFETY: both blocks are at least as long as the shorter one, and do not overlap.
                unsafe {
                    std::ptr::copy_nonoverlapping(pointer, new, layout.size().min(size));
                    self.dealloc(pointer, layout);
                }
            }
            return new;
        }
        // SAFETY: not from the arena, so from there.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
