//! Metrics of plugins' own, in the gateway's registry.
//!
//! Families and series are read by pointer swap, on the request path and by scrapes alike: neither takes a lock. Only what
//! is new is put in under one, which a plugin does a bounded number of times.

use arc_swap::ArcSwap;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Metric;
use prometheus_client::registry::Registry;
use sluice_model::plugin::PluginKey;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

const MAX_NAME: usize = 64;
const MAX_METRICS: usize = 64;
const MAX_LABELS: usize = 8;
const MAX_LABEL_VALUE: usize = 128;
const MAX_SERIES: usize = 1_000;
const MAX_BUCKETS: usize = 32;

/// Upper bounds where a plugin names none: Prometheus' own, in seconds.
const DEFAULT_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What follows these would be read as a part of another metric.
const RESERVED: [&str; 6] = ["_bucket", "_count", "_sum", "_created", "_info", "_total"];

type Answer = Result<(), String>;
type Labels = Vec<(String, String)>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    plugin: String,
}

/// All plugins'.
#[derive(Debug)]
pub(super) struct Families {
    plugins: ArcSwap<BTreeMap<PluginKey, Arc<PluginFamilies>>>,
    /// Taken by whoever adds a plugin, or a metric's name.
    names: Arc<Mutex<Names>>,
    refused: Metric<PluginLabels, Counter>,
}

/// What each name is, and for how many plugins: one name has one type in all of `/metrics`.
type Names = BTreeMap<Box<str>, (Kind, usize)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

#[derive(Debug)]
struct Collected(Arc<Families>);

impl Families {
    pub(super) fn register(registry: &mut Registry) -> Arc<Families> {
        let families =
            Arc::new(Families { plugins: ArcSwap::default(), names: Arc::default(), refused: Metric::default() });
        registry.register(
            "plugin_metrics_refused",
            "What plugins told of metrics of their own, and was above a limit or did not fit what the metric is",
            families.refused.clone(),
        );
        registry.register_collector(Box::new(Collected(families.clone())));
        families
    }

    pub(super) fn plugin(&self, key: &PluginKey) -> Arc<PluginFamilies> {
        let refused = self.refused.get_or_create_owned(&PluginLabels { plugin: key.to_string() });
        let plugin = Arc::new(PluginFamilies {
            families: ArcSwap::default(),
            series: AtomicUsize::new(0),
            adding: Mutex::default(),
            names: self.names.clone(),
            refused,
        });
        self.plugins.rcu(|plugins| {
            let mut plugins = BTreeMap::clone(plugins);
            plugins.insert(key.clone(), plugin.clone());
            plugins
        });
        plugin
    }

    pub(super) fn forget(&self, key: &PluginKey) {
        self.plugins.rcu(|plugins| {
            let mut plugins = BTreeMap::clone(plugins);
            plugins.remove(key);
            plugins
        });
        self.refused.remove(&PluginLabels { plugin: key.to_string() });
    }
}

/// One plugin's. Its names are free again when nobody holds it any more.
#[derive(Debug)]
pub(crate) struct PluginFamilies {
    families: ArcSwap<HashMap<Box<str>, Arc<Family>>>,
    series: AtomicUsize,
    adding: Mutex<()>,
    names: Arc<Mutex<Names>>,
    refused: Counter,
}

#[derive(Debug)]
struct Family {
    kind: Kind,
    /// Sorted.
    labels: Vec<String>,
    bounds: Box<[f64]>,
    /// By the values of the labels.
    series: ArcSwap<HashMap<Vec<String>, Arc<Series>>>,
}

#[derive(Debug)]
enum Series {
    Counter(AtomicU64),
    /// Bits of a floating-point number.
    Gauge(AtomicU64),
    Histogram(Histogram),
}

#[derive(Debug)]
struct Histogram {
    /// One for each bound, and one above the last.
    buckets: Box<[AtomicU64]>,
    /// Bits of a floating-point number.
    sum: AtomicU64,
}

/// One series, found once.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    family: Arc<Family>,
    series: Arc<Series>,
}

impl Handle {
    pub(crate) fn kind(&self) -> Kind {
        self.family.kind
    }

    pub(crate) fn is(&self, other: &Handle) -> bool {
        Arc::ptr_eq(&self.series, &other.series)
    }

    /// To a counter.
    pub(crate) fn add(&self, by: u64) {
        if let Series::Counter(counter) = &*self.series {
            counter.fetch_add(by, Relaxed);
        }
    }

    /// A gauge, up or down.
    pub(crate) fn shift(&self, by: i64) {
        if let Series::Gauge(gauge) = &*self.series {
            // Never fails: the closure always gives a value.
            let _ = gauge.fetch_update(Relaxed, Relaxed, |now| Some((f64::from_bits(now) + by as f64).to_bits()));
        }
    }

    /// A gauge.
    pub(crate) fn set(&self, value: u64) {
        if let Series::Gauge(gauge) = &*self.series {
            gauge.store((value as f64).to_bits(), Relaxed);
        }
    }

    /// In a histogram.
    pub(crate) fn observe(&self, value: u64) {
        if let Series::Histogram(histogram) = &*self.series {
            histogram.observe(&self.family.bounds, value as f64);
        }
    }

    /// Of a counter or a gauge.
    pub(crate) fn value(&self) -> Option<u64> {
        match &*self.series {
            Series::Counter(counter) => Some(counter.load(Relaxed)),
            Series::Gauge(gauge) => Some(f64::from_bits(gauge.load(Relaxed)) as u64),
            Series::Histogram(_) => None,
        }
    }
}

impl Histogram {
    fn observe(&self, bounds: &[f64], value: f64) {
        let bucket = bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Relaxed);
        }
        // Never fails: the closure always gives a value.
        let _ = self.sum.fetch_update(Relaxed, Relaxed, |sum| Some((f64::from_bits(sum) + value).to_bits()));
    }
}

impl PluginFamilies {
    pub(super) fn add(&self, name: &str, labels: Labels, by: u64) -> Answer {
        self.told(name, Kind::Counter, labels, &[], |series, _| {
            if let Series::Counter(counter) = series {
                counter.fetch_add(by, Relaxed);
            }
        })
    }

    pub(super) fn set(&self, name: &str, labels: Labels, value: f64) -> Answer {
        if !value.is_finite() {
            return self.refuse("a gauge is a finite number".to_owned());
        }
        self.told(name, Kind::Gauge, labels, &[], |series, _| {
            if let Series::Gauge(gauge) = series {
                gauge.store(value.to_bits(), Relaxed);
            }
        })
    }

    pub(super) fn observe(&self, name: &str, labels: Labels, value: f64, bounds: &[f64]) -> Answer {
        if !value.is_finite() {
            return self.refuse("an observation is a finite number".to_owned());
        }
        self.told(name, Kind::Histogram, labels, bounds, |series, bounds| {
            if let Series::Histogram(histogram) = series {
                histogram.observe(bounds, value);
            }
        })
    }

    /// A metric without labels, for whoever tells it again and again.
    pub(crate) fn handle(&self, name: &str, kind: Kind) -> Result<Handle, String> {
        let found = self.family(name, kind, Labels::new(), &[]);
        let found = found.and_then(|(family, values)| Ok(Handle { series: self.series(&family, values)?, family }));
        found.inspect_err(|_| {
            self.refused.inc();
        })
    }

    fn refuse(&self, message: String) -> Answer {
        self.refused.inc();
        Err(message)
    }

    fn told(
        &self,
        name: &str,
        kind: Kind,
        labels: Labels,
        bounds: &[f64],
        tell: impl FnOnce(&Series, &[f64]),
    ) -> Answer {
        let found = self.family(name, kind, labels, bounds);
        match found.and_then(|(family, values)| Ok((self.series(&family, values)?, family))) {
            Ok((series, family)) => {
                tell(&series, &family.bounds);
                Ok(())
            }
            Err(message) => self.refuse(message),
        }
    }

    /// The family, made at its first use, with the values of its labels.
    fn family(
        &self,
        name: &str,
        kind: Kind,
        mut labels: Labels,
        bounds: &[f64],
    ) -> Result<(Arc<Family>, Vec<String>), String> {
        // The exposition adds it again.
        let name = if kind == Kind::Counter { name.strip_suffix("_total").unwrap_or(name) } else { name };
        labels.sort();
        let (names, values): (Vec<String>, Vec<String>) = labels.into_iter().unzip();
        let known = self.families.load().get(name).cloned();
        let family = match known {
            Some(family) => family,
            None => self.new_family(name, kind, &names, bounds)?,
        };
        if family.kind != kind {
            return Err(format!("`{name}` is a {} by its first use", family.kind.as_str()));
        }
        if family.labels != names {
            return Err(format!("`{name}` has the labels [{}] by its first use", family.labels.join(", ")));
        }
        Ok((family, values))
    }

    fn new_family(&self, name: &str, kind: Kind, labels: &[String], bounds: &[f64]) -> Result<Arc<Family>, String> {
        check(name, labels, bounds)?;
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let families = self.families.load_full();
        // Another call was faster.
        if let Some(family) = families.get(name) {
            return Ok(family.clone());
        }
        if families.len() >= MAX_METRICS {
            return Err(format!("a plugin has at most {MAX_METRICS} metrics"));
        }
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, users) = names.entry(name.into()).or_insert((kind, 0));
        if *known != kind {
            return Err(format!("`{name}` is a {} of another plugin: use another name", known.as_str()));
        }
        *users += 1;
        let bounds = if bounds.is_empty() { &DEFAULT_BUCKETS } else { bounds };
        let bounds = if kind == Kind::Histogram { bounds.into() } else { Box::default() };
        let family = Arc::new(Family { kind, labels: labels.to_vec(), bounds, series: ArcSwap::default() });
        let mut families = HashMap::clone(&families);
        families.insert(name.into(), family.clone());
        self.families.store(Arc::new(families));
        Ok(family)
    }

    fn series(&self, family: &Family, values: Vec<String>) -> Result<Arc<Series>, String> {
        if let Some(series) = family.series.load().get(&values) {
            return Ok(series.clone());
        }
        if values.iter().any(|value| value.len() > MAX_LABEL_VALUE) {
            return Err(format!("a label's value has at most {MAX_LABEL_VALUE} bytes"));
        }
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let all = family.series.load_full();
        if let Some(series) = all.get(&values) {
            return Ok(series.clone());
        }
        if self.series.load(Relaxed) >= MAX_SERIES {
            return Err(format!("a plugin has at most {MAX_SERIES} label sets"));
        }
        self.series.fetch_add(1, Relaxed);
        let series = Arc::new(match family.kind {
            Kind::Counter => Series::Counter(AtomicU64::new(0)),
            Kind::Gauge => Series::Gauge(AtomicU64::new(0)),
            Kind::Histogram => {
                let buckets = (0..=family.bounds.len()).map(|_| AtomicU64::new(0)).collect();
                Series::Histogram(Histogram { buckets, sum: AtomicU64::new(0) })
            }
        });
        let mut all = HashMap::clone(&all);
        all.insert(values, series.clone());
        family.series.store(Arc::new(all));
        Ok(series)
    }
}

impl Drop for PluginFamilies {
    fn drop(&mut self) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        for name in self.families.load().keys() {
            if let Some((_, users)) = names.get_mut(name) {
                *users -= 1;
                if *users == 0 {
                    names.remove(name);
                }
            }
        }
    }
}

/// Names as the Prometheus data model has them.
fn is_name(name: &str, colon: bool) -> bool {
    let first = |b: u8| b.is_ascii_alphabetic() || b == b'_' || (colon && b == b':');
    name.bytes().next().is_some_and(first) && name.bytes().all(|b| first(b) || b.is_ascii_digit())
}

fn check(name: &str, labels: &[String], bounds: &[f64]) -> Answer {
    if name.len() > MAX_NAME || !is_name(name, true) {
        return Err(format!(
            "a metric's name has 1 to {MAX_NAME} letters, digits, `_` and `:`, and begins with no digit"
        ));
    }
    if let Some(suffix) = RESERVED.into_iter().find(|suffix| name.ends_with(suffix)) {
        return Err(format!("a metric's name does not end with `{suffix}`, which the text format adds itself"));
    }
    if labels.len() > MAX_LABELS {
        return Err(format!("a metric has at most {MAX_LABELS} labels"));
    }
    for label in labels {
        let taken = label == "plugin" || label == "le" || label.starts_with("__");
        if taken || label.len() > MAX_NAME || !is_name(label, false) {
            return Err(format!(
                "a label's name has 1 to {MAX_NAME} letters, digits and `_`, begins with no digit and no `__`, and is \
                 neither `plugin` nor `le`"
            ));
        }
    }
    if labels.windows(2).any(|pair| pair.first() == pair.last()) {
        return Err("a label is named once".to_owned());
    }
    let ascend = bounds.windows(2).all(|pair| pair.first() < pair.last());
    if bounds.len() > MAX_BUCKETS || !ascend || bounds.iter().any(|bound| !bound.is_finite()) {
        return Err(format!("a histogram has at most {MAX_BUCKETS} upper bounds, finite and ascending"));
    }
    Ok(())
}

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let plugins = self.0.plugins.load_full();
        let mut families: BTreeMap<Box<str>, Vec<(String, Arc<Family>)>> = BTreeMap::new();
        for (key, plugin) in plugins.iter() {
            for (name, family) in plugin.families.load().iter() {
                families.entry(name.clone()).or_default().push((key.to_string(), family.clone()));
            }
        }
        for (name, of_plugins) in families {
            let Some(kind) = of_plugins.first().map(|(_, family)| family.kind) else { continue };
            let name = format!("plugin_custom_{name}");
            let metric_type = match kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut encoder = encoder.encode_descriptor(&name, "A plugin's own", None, metric_type)?;
            // A plugin that is about to be forgotten may hold the name as something else for a moment.
            for (plugin, family) in of_plugins.iter().filter(|(_, family)| family.kind == kind) {
                let all = family.series.load_full();
                let mut all: Vec<_> = all.iter().collect();
                all.sort_by_key(|(values, _)| *values);
                for (values, series) in all {
                    let own = family.labels.iter().zip(values).map(|(name, value)| (name.as_str(), value.as_str()));
                    let labels: Vec<(&str, &str)> = [("plugin", plugin.as_str())].into_iter().chain(own).collect();
                    let mut encoder = encoder.encode_family(&labels)?;
                    match &**series {
                        Series::Counter(counter) => {
                            encoder.encode_counter::<NoLabelSet, u64, u64>(&counter.load(Relaxed), None)?;
                        }
                        Series::Gauge(gauge) => encoder.encode_gauge(&f64::from_bits(gauge.load(Relaxed)))?,
                        Series::Histogram(histogram) => {
                            let counts = histogram.buckets.iter().map(|bucket| bucket.load(Relaxed));
                            let bounds = family.bounds.iter().copied().chain([f64::INFINITY]);
                            let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
                            let count = buckets.iter().map(|(_, count)| count).sum();
                            let sum = f64::from_bits(histogram.sum.load(Relaxed));
                            encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn families() -> (Registry, Arc<Families>) {
        let mut registry = Registry::with_prefix("sluice");
        let families = Families::register(&mut registry);
        (registry, families)
    }

    fn scraped(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    #[test]
    fn each_kind_is_told_with_the_plugins_name() {
        let (registry, families) = families();
        let one = families.plugin(&PluginKey::new("shop", "one"));
        let two = families.plugin(&PluginKey::new("shop", "two"));
        one.add("orders_total", labels(&[("size", "l"), ("kind", "a\"b")]), 2).unwrap();
        one.add("orders", labels(&[("kind", "a\"b"), ("size", "l")]), 3).unwrap();
        two.add("orders", labels(&[]), 1).unwrap();
        one.set("depth", labels(&[]), 1.5).unwrap();
        one.observe("wait", labels(&[]), 2.0, &[1.0, 2.0]).unwrap();
        one.observe("wait", labels(&[]), 3.0, &[]).unwrap();
        let text = scraped(&registry);
        for line in [
            "# TYPE sluice_plugin_custom_orders counter",
            r#"sluice_plugin_custom_orders_total{plugin="shop/one",kind="a\"b",size="l"} 5"#,
            r#"sluice_plugin_custom_orders_total{plugin="shop/two"} 1"#,
            r#"sluice_plugin_custom_depth{plugin="shop/one"} 1.5"#,
            r#"sluice_plugin_custom_wait_sum{plugin="shop/one"} 5.0"#,
            r#"sluice_plugin_custom_wait_count{plugin="shop/one"} 2"#,
            r#"sluice_plugin_custom_wait_bucket{le="2.0",plugin="shop/one"} 1"#,
            r#"sluice_plugin_custom_wait_bucket{le="+Inf",plugin="shop/one"} 2"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert_eq!(text.matches("# TYPE sluice_plugin_custom_orders ").count(), 1);
        drop(one);
        families.forget(&PluginKey::new("shop", "one"));
        assert!(!scraped(&registry).contains("shop/one"));
    }

    #[test]
    fn what_a_metric_was_first_it_stays_and_one_name_has_one_type() {
        let (_registry, families) = families();
        let one = families.plugin(&PluginKey::new("shop", "one"));
        let two = families.plugin(&PluginKey::new("shop", "two"));
        one.add("a", labels(&[("x", "1")]), 1).unwrap();
        assert!(one.set("a", labels(&[("x", "1")]), 1.0).unwrap_err().contains("counter"));
        assert!(one.add("a", labels(&[("y", "1")]), 1).unwrap_err().contains("[x]"));
        assert!(two.set("a", labels(&[]), 1.0).unwrap_err().contains("another plugin"));
        assert_eq!((one.refused.get(), two.refused.get()), (2, 1));
        // Who is gone holds no name.
        families.forget(&PluginKey::new("shop", "one"));
        drop(one);
        two.set("a", labels(&[]), 1.0).unwrap();
    }

    #[test]
    fn each_limit_refuses_and_counts() {
        let (_registry, families) = families();
        let plugin = families.plugin(&PluginKey::new("shop", "one"));
        let (long, many) = ("n".repeat(65), (0..9).map(|n| (format!("l{n}"), String::new())).collect::<Labels>());
        let ascending: Vec<f64> = (0..33).map(f64::from).collect();
        let refused = [
            plugin.add(&long, labels(&[]), 1),
            plugin.add("", labels(&[]), 1),
            plugin.add("1a", labels(&[]), 1),
            plugin.add("a-b", labels(&[]), 1),
            plugin.set("a_total", labels(&[]), 1.0),
            plugin.add("a_bucket", labels(&[]), 1),
            plugin.add("a", many, 1),
            plugin.add("a", labels(&[("plugin", "x")]), 1),
            plugin.add("a", labels(&[("x", "1"), ("x", "2")]), 1),
            plugin.add("a", labels(&[("x:y", "1")]), 1),
            plugin.set("a", labels(&[]), f64::NAN),
            plugin.observe("a", labels(&[]), f64::INFINITY, &[]),
            plugin.observe("a", labels(&[]), 1.0, &[2.0, 1.0]),
            plugin.observe("a", labels(&[]), 1.0, &ascending),
        ];
        assert!(refused.iter().all(Result::is_err), "{refused:?}");
        assert_eq!(plugin.refused.get(), refused.len() as u64);
        assert!(plugin.families.load().is_empty(), "what is refused leaves nothing");
        assert!(plugin.add("v", labels(&[("x", &"v".repeat(129))]), 1).is_err());
        let mut told = (0..2_000).filter(|n| plugin.add("v", labels(&[("x", &n.to_string())]), 1).is_ok());
        assert_eq!(told.by_ref().count(), 1_000);
        let made = (0..100).filter(|n| plugin.new_family(&format!("m{n}"), Kind::Gauge, &[], &[]).is_ok()).count();
        assert_eq!(made, 63, "64 with `v`");
    }
}
