//! Figures as text: a line a policy, the page, and a sentence in each policy's own page.

use crate::Row;
use crate::measure::Figures;
use sluice_tests::binary;
use std::fmt::Write;
use std::fs;
use std::path::Path;

const PAGE: &str = "docs/benchmarks-plugins.md";

/// How the sentence in a policy's page begins; it stands before this heading.
const SENTENCE: &str = "A request costs ";
const HEADING: &str = "## Configuration\n";

impl Row {
    pub(crate) fn line(&self) -> String {
        let [fresh, pooled] = [self.fresh, self.pooled].map(|of| {
            let Figures { ns, lowest, highest, two_threads } = of;
            format!("{ns:>8} ns [{lowest} .. {highest}], two threads {two_threads:.2}x")
        });
        format!("{:<18} fresh {fresh}; pooled {pooled}  ({})", self.policy, self.what)
    }

    /// A row of the page's table. `tests/docs` holds the policies' pages to it.
    fn cells(&self) -> String {
        let cells = |of: Figures| {
            let Figures { ns, lowest, highest, two_threads } = of;
            format!("{} [{}-{}] | {two_threads:.2}x", micros(ns), micros(lowest), micros(highest))
        };
        format!("| {} | {} | {} | {} |\n", self.policy, self.what, cells(self.fresh), cells(self.pooled))
    }
}

fn micros(ns: u64) -> String {
    format!("{:.2}", ns as f64 / 1_000.0)
}

/// Of the last minute, as the kernel has it.
pub(crate) fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

/// Writes the page, and the sentence in each policy's own.
pub(crate) fn write(rows: &[Row], load: f64) {
    let root = binary::root();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("an unknown CPU");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut page = format!(
        "# What the policies cost a request\n\n\
         Made by `make bench-plugins`: each policy that ships, configured as in the example on its page, in the gateway's own engine \
         without a gateway around it.\n\n\
         - A figure is CPU time of the process for one exchange, all phases of the policy, in microseconds: the median of nine rounds, \
         with the lowest and the highest. The making of the request is measured alone and taken off. The request has 12 headers, the module's functions \
         are compiled, and what a policy remembers (keys, verified passwords) is there.\n\
         - \"2 threads\" is calls a second of two threads by those of one.\n\
         - `jwt` and `basic-auth` have limits above 20 ms in their examples, and so run on the host's threads for slow plugins.\n\n\
         Machine: {cores} cores of {}, Linux {}. Load average at the beginning: {load:.2}.\n",
        cpu.trim_start_matches(['\t', ' ', ':']).trim_end(),
        kernel.trim(),
    );
    if load > 0.5 {
        page.push_str("**The machine was not quiet: these figures say that the bench runs, and no more.**\n");
    }
    page.push_str(
        "\n| policy | what is called | fresh, us | 2 threads | pooled, us | 2 threads |\n|---|---|---|---|---|---|\n",
    );
    rows.iter().for_each(|row| page.push_str(&row.cells()));
    fs::write(root.join(PAGE), page).expect("the page is written");
    // The first row of a policy is that of its example.
    let mut told: Vec<&str> = Vec::new();
    for row in rows {
        if !told.contains(&row.policy.as_str()) {
            told.push(&row.policy);
            tell(&root.join("plugins").join(&row.policy).join("README.md"), row);
        }
    }
}

fn tell(page: &Path, row: &Row) {
    let text = fs::read_to_string(page).expect("a page");
    let (before, after) = text.split_once(HEADING).expect("a heading");
    let before = before.split(SENTENCE).next().unwrap_or_default().trim_end();
    let mut told = String::new();
    write!(
        told,
        "{before}\n\n{SENTENCE}{} us fresh, {} us pooled ([how it is measured](../../{PAGE})).\n\n{HEADING}{after}",
        micros(row.fresh.ns),
        micros(row.pooled.ns)
    )
    .expect("text");
    fs::write(page, told).expect("the page is written");
}
