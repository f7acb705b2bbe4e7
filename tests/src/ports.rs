//! Ports for the gateway to listen on. Listeners are named in YAML, so a port must be known before it is bound; it is
//! taken from below the ephemeral range (32768 on Linux), where no outgoing connection can sit on it by chance.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 15_000;
const COUNT: u32 = 17_000;

/// A port that nobody listens on and that no other call in this process gets.
pub fn free() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test binaries may run beside each other: each starts elsewhere.
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = (FIRST + start.wrapping_add(n) % COUNT) as u16;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT)
}

const FIRST_OF_RANGES: u32 = 10_000;
const RANGE: u32 = 10;
const RANGES: u32 = (FIRST - FIRST_OF_RANGES) / RANGE;

/// The first of ten ports in a row that nobody listens on, and that no other call in this process gets.
pub fn range() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..RANGES {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let first = (FIRST_OF_RANGES + start.wrapping_add(n) % RANGES * RANGE) as u16;
        let is_free = |port: u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
        if (first..first + RANGE as u16).all(is_free) {
            return first;
        }
    }
    panic!("no ten free ports in a row between {FIRST_OF_RANGES} and {FIRST}")
}
