//! A guest that uses the services that the header `x-do` names, several by `;`, and tells in `x-told` what came of each.

use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::store::{Rate, Store};
use sluice_plugin::{Decision, OnLog, OnRequest, Plugin, Reply, Request, Response, Summary};
use sluice_plugin::{attributes, clock, metrics, random, secrets};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Calls of this instance.
static CALLS: AtomicU64 = AtomicU64::new(0);

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// What is done in configure, which must not.
    #[serde(default)]
    in_configure: Option<String>,
    /// Requests that pass in a minute, by the store `limits`; more get 429.
    #[serde(default)]
    per_minute: Option<i64>,
}

pub struct Keeper {
    per_minute: Option<i64>,
}

impl Plugin for Keeper {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        if let Some(what) = config.in_configure {
            told(&what);
        }
        Ok(Keeper { per_minute: config.per_minute })
    }
}

fn told(what: &str) -> String {
    done(what).unwrap_or_else(|refused| format!("refused: {refused}"))
}

fn done(what: &str) -> Result<String, String> {
    let words: Vec<&str> = what.split_whitespace().collect();
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    let ttl = |text: Option<&&str>| text.map(|text| number(text).map(Duration::from_millis)).transpose();
    let open = |name: &str| Store::open(name).map_err(String::from);
    Ok(match words.as_slice() {
        ["now"] => clock::now().as_nanos().to_string(),
        ["monotonic"] => clock::monotonic().as_nanos().to_string(),
        ["random", length] => format!("{:?}", random::bytes(number(length)? as u32)),
        ["number"] => random::number().to_string(),
        ["calls"] => CALLS.load(Relaxed).to_string(),
        ["attribute", name, value] => attributes::set_str(name, value).map(|()| "ok".to_owned())?,
        ["secret", name] => format!("{:?}", secrets::get_str(name)),
        ["add", name, by, labels @ ..] => {
            let labels: Vec<_> = labels.iter().filter_map(|label| label.split_once('=')).collect();
            metrics::add(name, &labels, number(by)?).map(|()| "ok".to_owned())?
        }
        ["gauge", name, value] => metrics::set(name, &[], number(value)? as f64).map(|()| "ok".to_owned())?,
        ["observe", name, value] => {
            metrics::observe_in(name, &[], number(value)? as f64, &[1.0, 10.0]).map(|()| "ok".to_owned())?
        }
        ["open", name] => open(name).map(|_| "ok".to_owned())?,
        ["get", store, key] => {
            let value = open(store)?.get(key)?;
            format!("{:?}", value.map(|value| String::from_utf8_lossy(&value).into_owned()))
        }
        ["set", store, key, value, rest @ ..] => {
            open(store)?.set(key, value, ttl(rest.first())?).map(|()| "ok".to_owned())?
        }
        ["fill", store, key, length] => {
            open(store)?.set(key, vec![b'x'; number(length)? as usize], None).map(|()| "ok".to_owned())?
        }
        ["key", store, length] => {
            open(store)?.set(&"k".repeat(number(length)? as usize), "", None).map(|()| "ok".to_owned())?
        }
        ["swap", store, key, expected, value] => {
            let expected = (*expected != "-").then_some(expected.as_bytes());
            open(store)?.compare_and_swap(key, expected, value, None)?.to_string()
        }
        ["remove", store, key] => open(store)?.remove(key)?.to_string(),
        ["increment", store, key, by, rest @ ..] => {
            let by = by.parse::<i64>().map_err(|error| error.to_string())?;
            open(store)?.increment(key, by, ttl(rest.first())?)?.to_string()
        }
        ["counter", store, key] => open(store)?.counter(key)?.to_string(),
        ["take", store, key, capacity, refill, interval, cost] => {
            let interval = Duration::from_millis(number(interval)?);
            let rate = Rate { capacity: number(capacity)?, refill: number(refill)?, interval };
            let taken = open(store)?.take(key, rate, number(cost)?)?;
            format!("{} {} {}", taken.taken, taken.left, if taken.wait.is_some() { "wait" } else { "never" })
        }
        _ => return Err(format!("`{what}` is nothing to do")),
    })
}

impl OnRequest for Keeper {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        CALLS.fetch_add(1, Relaxed);
        if let Some(limit) = self.per_minute {
            let store = Store::open("limits").unwrap();
            let client = request.header_str("x-client").unwrap_or_default();
            let seen = store.increment(&client, 1, Some(Duration::from_secs(60))).unwrap();
            metrics::add("seen", &[], 1).unwrap();
            if seen > limit {
                return Reply::new(429).into();
            }
        }
        if let Some(what) = request.header_str("x-do") {
            let all: Vec<String> = what.split(';').map(told).collect();
            request.set_header("x-told", all.join("; ")).unwrap();
        }
        Decision::Continue
    }
}

impl OnLog for Keeper {
    fn on_log(&self, request: &Request<'_>, _: Option<&Response<'_>>, _: &Summary<'_>) {
        CALLS.fetch_add(1, Relaxed);
        if let Some(what) = request.header_str("x-do-log") {
            attributes::set_str("keeper.log", &told(&what)).unwrap();
        }
    }
}

sluice_plugin::export!(Keeper: request, log);
