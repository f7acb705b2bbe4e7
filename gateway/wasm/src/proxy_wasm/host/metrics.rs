//! Metrics of filters' own: in `/metrics` as those of components, without labels.

use super::super::abi::{Answer, Status, metric, status};
use super::super::memory::{Guest, slice, view, write_u32, write_u64};
use super::super::state::VmState;
use super::ENV;
use crate::services::Kind;
use wasmtime::{Linker, Result};

pub(super) fn define(linker: &mut Linker<VmState>) -> Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_define_metric",
        |mut guest: Guest<'_>, kind: u32, name: u32, name_size: u32, to: u32| {
            status(define_metric(&mut guest, kind, (name, name_size), to))
        },
    )?;
    linker.func_wrap(ENV, "proxy_increment_metric", |guest: Guest<'_>, metric: u32, offset: i64| {
        status(increment(guest.data(), metric, offset))
    })?;
    linker.func_wrap(ENV, "proxy_record_metric", |guest: Guest<'_>, metric: u32, value: u64| {
        status(record(guest.data(), metric, value))
    })?;
    linker.func_wrap(ENV, "proxy_get_metric", |mut guest: Guest<'_>, metric: u32, to: u32| {
        status(get(&mut guest, metric, to))
    })?;
    Ok(())
}

fn define_metric(guest: &mut Guest<'_>, kind: u32, name: (u32, u32), to: u32) -> Answer {
    let kind = match kind {
        metric::COUNTER => Kind::Counter,
        metric::GAUGE => Kind::Gauge,
        metric::HISTOGRAM => Kind::Histogram,
        _ => return Err(Status::BadArgument.into()),
    };
    let (memory, state) = view(guest)?;
    let name = as_prometheus(&String::from_utf8_lossy(slice(memory, name.0, name.1)?));
    let handle = match state.plugin.services.metrics().handle(&name, kind) {
        Ok(handle) => handle,
        Err(refused) => {
            return state.refuse(Status::InternalFailure, "proxy_define_metric", &format!("`{name}`: {refused}"));
        }
    };
    let known = state.metrics.iter().position(|known| known.is(&handle));
    let metric = known.unwrap_or_else(|| {
        state.metrics.push(handle);
        state.metrics.len() - 1
    });
    write_u32(guest, to, u32::try_from(metric).unwrap_or(u32::MAX))
}

/// Filters part their names by dots. What the text format adds itself can't end a name.
fn as_prometheus(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == ':' { c } else { '_' };
    let mut name: String = name.chars().map(letter).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert(0, '_');
    }
    if ["_bucket", "_count", "_sum", "_created", "_info", "_total"].iter().any(|suffix| name.ends_with(suffix)) {
        name.push('_');
    }
    name
}

fn increment(state: &VmState, metric: u32, offset: i64) -> Answer {
    let handle = state.metrics.get(metric as usize).ok_or(Status::NotFound)?;
    match handle.kind() {
        Kind::Counter if offset > 0 => handle.add(offset.unsigned_abs()),
        Kind::Gauge => handle.shift(offset),
        Kind::Counter | Kind::Histogram => return Err(Status::BadArgument.into()),
    }
    Ok(())
}

fn record(state: &VmState, metric: u32, value: u64) -> Answer {
    let handle = state.metrics.get(metric as usize).ok_or(Status::NotFound)?;
    match handle.kind() {
        Kind::Counter => handle.add(value),
        Kind::Gauge => handle.set(value),
        Kind::Histogram => handle.observe(value),
    }
    Ok(())
}

fn get(guest: &mut Guest<'_>, metric: u32, to: u32) -> Answer {
    let handle = guest.data().metrics.get(metric as usize).ok_or(Status::NotFound)?;
    let value = handle.value().ok_or(Status::BadArgument)?;
    write_u64(guest, to, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_those_of_the_text_format() {
        for (name, expected) in [
            ("http.auth-random.calls", "http_auth_random_calls"),
            ("2nd", "_2nd"),
            ("a_count", "a_count_"),
            ("requests_total", "requests_total_"),
            ("plain:one", "plain:one"),
        ] {
            assert_eq!(as_prometheus(name), expected);
        }
    }
}
