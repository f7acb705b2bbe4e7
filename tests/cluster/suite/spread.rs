//! Who answers: requests one after another, counted by the pod that they reached.

use crate::cluster::{Pod, until};
use futures::future;
use futures::stream::{self, StreamExt};
use sluice_tests::{Address, raw};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Answers, by pod.
#[derive(Debug, Default)]
pub(crate) struct Spread(pub(crate) BTreeMap<String, usize>);

/// Requests under way at a time.
const LANES: usize = 4;

/// Sends `count` requests, each on a connection of its own, since kube-proxy chooses once for each. All must be good.
pub(crate) async fn ask(to: Address, host: &str, path: &str, count: usize) -> Spread {
    let one = |n: usize| async move {
        let answer = raw::get(to, host, path).await.unwrap_or_else(|error| panic!("request {n} to {path}: {error}"));
        assert_eq!(answer.status, 200, "request {n} to {path}: {}", answer.text());
        pod_of(&answer)
    };
    let mut spread = Spread::default();
    let mut answers = stream::iter(0..count).map(one).buffer_unordered(LANES);
    while let Some(pod) = answers.next().await {
        *spread.0.entry(pod).or_default() += 1;
    }
    spread
}

/// Waits until so many requests at a time are answered by all of these pods and by no other.
pub(crate) async fn settles(to: Address, host: &str, path: &str, at_once: usize, pods: &BTreeSet<String>) {
    until(&format!("{path} to be answered by {pods:?}"), || async {
        let answers = future::try_join_all((0..at_once).map(|_| raw::get(to, host, path))).await.ok()?;
        let good = answers.iter().all(|answer| answer.status == 200);
        (good && answers.iter().map(pod_of).collect::<BTreeSet<_>>() == *pods).then_some(())
    })
    .await;
}

pub(crate) fn pod_of(answer: &raw::Response) -> String {
    answer.json()["name"].as_str().expect("the answer names its pod").to_owned()
}

impl Spread {
    /// Each of these pods had its share, within `points` of a hundred, and nobody else had any.
    pub(crate) fn assert_even(&self, pods: &[Pod], points: f64) {
        let all: usize = self.0.values().sum();
        let even = 100.0 / pods.len() as f64;
        for pod in pods {
            let share = 100.0 * self.0.get(&pod.name).copied().unwrap_or(0) as f64 / all as f64;
            assert!((share - even).abs() <= points, "{} had {share:.1} % instead of {even:.1} %\n{self}", pod.name);
        }
        assert_eq!(self.0.len(), pods.len(), "others answered than {pods:?}\n{self}");
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(pod, count)| writeln!(f, "  {pod:<40} {count:>6}"))
    }
}
