//! As much of WASI (preview 1) as filters' toolchains bring with them: lines to the log, clocks, random bytes; no
//! arguments, no environment, no files.

use super::super::memory::{Guest, slice, view, write, write_u32, write_u64};
use super::super::state::VmState;
use super::texts::now;
use crate::instance::broken;
use crate::services;
use tracing::Level;
use wasmtime::{Linker, Result};

/// Both names that toolchains have for it.
const MODULES: [&str; 2] = ["wasi_snapshot_preview1", "wasi_unstable"];

const SUCCESS: u32 = 0;
const BADF: u32 = 8;
const FAULT: u32 = 21;
const INVAL: u32 = 28;
const NOENT: u32 = 44;
const NOTSUP: u32 = 58;

const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const REALTIME: u32 = 0;
const MONOTONIC: u32 = 1;

/// Bytes of one call for random ones.
const MAX_RANDOM: u32 = 65_536;
/// Pieces of one write, and bytes of them together.
const MAX_PIECES: u32 = 64;
const MAX_LINE: usize = 8_192;

type N = u32;

pub(super) fn define(linker: &mut Linker<VmState>) -> Result<()> {
    for module in MODULES {
        texts(linker, module)?;
        nothing(linker, module)?;
        files(linker, module)?;
    }
    // Emscripten's own.
    linker.func_wrap("env", "emscripten_notify_memory_growth", |_: Guest<'_>, _: N| {})?;
    Ok(())
}

fn texts(linker: &mut Linker<VmState>, module: &str) -> Result<()> {
    linker.func_wrap(module, "fd_write", |mut guest: Guest<'_>, fd: N, pieces: N, count: N, to: N| {
        fd_write(&mut guest, fd, pieces, count, to)
    })?;
    linker.func_wrap(module, "clock_time_get", |mut guest: Guest<'_>, clock: N, _: u64, to: N| {
        let time = match clock {
            REALTIME => now(),
            MONOTONIC => services::monotonic(),
            _ => return NOTSUP,
        };
        done(write_u64(&mut guest, to, time).is_ok())
    })?;
    linker.func_wrap(module, "clock_res_get", |mut guest: Guest<'_>, clock: N, to: N| match clock {
        REALTIME | MONOTONIC => done(write_u64(&mut guest, to, 1).is_ok()),
        _ => NOTSUP,
    })?;
    linker.func_wrap(module, "random_get", |mut guest: Guest<'_>, at: N, length: N| -> Result<u32> {
        if length > MAX_RANDOM {
            return Ok(INVAL);
        }
        let mut bytes = vec![0; length as usize];
        services::fill(&mut bytes)?;
        Ok(done(write(&mut guest, at, &bytes).is_ok()))
    })?;
    linker.func_wrap(module, "proc_exit", |_: Guest<'_>, code: i32| -> Result<()> {
        Err(broken(format!("it ended itself by proc_exit({code})")))
    })?;
    linker.func_wrap(module, "sched_yield", |_: Guest<'_>| SUCCESS)?;
    linker.func_wrap(module, "poll_oneoff", |mut guest: Guest<'_>, from: N, to: N, count: N, count_to: N| {
        poll(&mut guest, from, to, count, count_to)
    })?;
    Ok(())
}

fn done(is: bool) -> u32 {
    if is { SUCCESS } else { FAULT }
}

fn fd_write(guest: &mut Guest<'_>, fd: u32, pieces: u32, count: u32, to: u32) -> u32 {
    let level = match fd {
        STDOUT => Level::INFO,
        STDERR => Level::ERROR,
        _ => return BADF,
    };
    if count > MAX_PIECES {
        return INVAL;
    }
    let Ok((memory, state)) = view(guest) else { return FAULT };
    let Ok(list) = slice(memory, pieces, count * 8) else { return FAULT };
    let (mut line, mut written) = (Vec::new(), 0u32);
    for piece in list.chunks_exact(8) {
        let number = |part: &[u8]| part.try_into().map(u32::from_le_bytes).unwrap_or(u32::MAX);
        let (at, length) = piece.split_at(4);
        let (at, length) = (number(at), number(length));
        let Ok(bytes) = slice(memory, at, length) else { return FAULT };
        let room = MAX_LINE.saturating_sub(line.len());
        line.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        written = written.saturating_add(length);
    }
    for line in String::from_utf8_lossy(&line).lines().filter(|line| !line.is_empty()) {
        state.plugin.log.line(level, line);
    }
    done(write_u32(guest, to, written).is_ok())
}

/// Nothing is waited for: a clock has come to its time at once, and what else there may be is not offered.
fn poll(guest: &mut Guest<'_>, from: u32, to: u32, count: u32, count_to: u32) -> u32 {
    const SUBSCRIPTION: u32 = 48;
    const EVENT: u32 = 32;
    let mut events = 0;
    for index in 0..count.min(MAX_PIECES) {
        let Ok((memory, _)) = view(guest) else { return FAULT };
        let Some(at) = index.checked_mul(SUBSCRIPTION).and_then(|offset| from.checked_add(offset)) else {
            return FAULT;
        };
        let Ok(subscription) = slice(memory, at, SUBSCRIPTION) else { return FAULT };
        let mut event = [0u8; EVENT as usize];
        let is_clock = subscription.get(8) == Some(&0);
        if let (Some(place), Some(userdata)) = (event.get_mut(..8), subscription.get(..8)) {
            place.copy_from_slice(userdata);
        }
        if !is_clock {
            continue;
        }
        let Some(place) = to.checked_add(events * EVENT) else { return FAULT };
        if write(guest, place, &event).is_err() {
            return FAULT;
        }
        events += 1;
    }
    if events == 0 {
        return NOTSUP;
    }
    done(write_u32(guest, count_to, events).is_ok())
}

/// No arguments, no environment.
fn nothing(linker: &mut Linker<VmState>, module: &str) -> Result<()> {
    for name in ["environ_get", "args_get"] {
        linker.func_wrap(module, name, |_: Guest<'_>, _: N, _: N| SUCCESS)?;
    }
    for name in ["environ_sizes_get", "args_sizes_get"] {
        linker.func_wrap(module, name, |mut guest: Guest<'_>, count_to: N, size_to: N| {
            done(write_u32(&mut guest, count_to, 0).is_ok() && write_u32(&mut guest, size_to, 0).is_ok())
        })?;
    }
    Ok(())
}

/// No files but the two that lines go to.
fn files(linker: &mut Linker<VmState>, module: &str) -> Result<()> {
    linker.func_wrap(module, "fd_fdstat_get", |mut guest: Guest<'_>, fd: N, to: N| {
        if fd != STDOUT && fd != STDERR {
            return BADF;
        }
        // A character device that may be written to.
        let mut stat = [0u8; 24];
        (stat[0], stat[8]) = (2, 64);
        done(write(&mut guest, to, &stat).is_ok())
    })?;
    linker.func_wrap(module, "fd_fdstat_set_flags", |_: Guest<'_>, _: N, _: N| NOTSUP)?;
    linker.func_wrap(module, "fd_close", |_: Guest<'_>, _: N| BADF)?;
    linker.func_wrap(module, "fd_sync", |_: Guest<'_>, _: N| BADF)?;
    linker.func_wrap(module, "fd_read", |_: Guest<'_>, _: N, _: N, _: N, _: N| BADF)?;
    linker.func_wrap(module, "fd_pread", |_: Guest<'_>, _: N, _: N, _: N, _: u64, _: N| BADF)?;
    linker.func_wrap(module, "fd_pwrite", |_: Guest<'_>, _: N, _: N, _: N, _: u64, _: N| BADF)?;
    linker.func_wrap(module, "fd_readdir", |_: Guest<'_>, _: N, _: N, _: N, _: u64, _: N| BADF)?;
    linker.func_wrap(module, "fd_seek", |_: Guest<'_>, _: N, _: i64, _: N, _: N| BADF)?;
    linker.func_wrap(module, "fd_tell", |_: Guest<'_>, _: N, _: N| BADF)?;
    linker.func_wrap(module, "fd_filestat_get", |_: Guest<'_>, _: N, _: N| BADF)?;
    linker.func_wrap(module, "fd_filestat_set_size", |_: Guest<'_>, _: N, _: u64| BADF)?;
    linker.func_wrap(module, "fd_prestat_get", |_: Guest<'_>, _: N, _: N| BADF)?;
    linker.func_wrap(module, "fd_prestat_dir_name", |_: Guest<'_>, _: N, _: N, _: N| BADF)?;
    linker.func_wrap(
        module,
        "path_open",
        |_: Guest<'_>, _: N, _: N, _: N, _: N, _: N, _: u64, _: u64, _: N, _: N| NOENT,
    )?;
    linker.func_wrap(module, "path_filestat_get", |_: Guest<'_>, _: N, _: N, _: N, _: N, _: N| NOENT)?;
    linker.func_wrap(module, "path_readlink", |_: Guest<'_>, _: N, _: N, _: N, _: N, _: N, _: N| NOENT)?;
    for name in ["path_create_directory", "path_remove_directory", "path_unlink_file"] {
        linker.func_wrap(module, name, |_: Guest<'_>, _: N, _: N, _: N| NOTSUP)?;
    }
    linker.func_wrap(module, "path_rename", |_: Guest<'_>, _: N, _: N, _: N, _: N, _: N, _: N| NOTSUP)?;
    Ok(())
}
