//! The status page: one HTML document without scripts or anything to load. Whatever comes from configuration is
//! escaped.

use crate::rows::{self, CertificateRow, ListenerRow, RouteRow};
use crate::{EndpointStatus, PluginStatus, Status, WatchStatus, wire};
use sluice_model::config::EXPIRES_SOON_DAYS;
use sluice_model::{Config, Problem, Severity};
use std::fmt::{self, Display, Write};
use std::time::SystemTime;

/// Rows of one table. `sluice get` has them all.
const MAX_ROWS: usize = 500;

/// On a narrow screen each row is a block of labelled lines; on a wide one a table that is too wide is scrolled by itself.
const STYLE: &str = ":root{color-scheme:light dark}\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:90rem;padding:0 1rem;color:#222;background:#fff}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}.table{overflow-x:auto}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #ddd;vertical-align:top}th{font-weight:600}\
code{font-size:.9em;overflow-wrap:anywhere}td code:only-child{display:inline-block;min-width:16ch}small{color:#666}.id{white-space:nowrap}.error{color:#b00020}.warning{color:#8a5a00}\
@media(max-width:48rem){thead{display:none}tr{display:block;padding:.4rem 0;border-bottom:1px solid #ddd}\
td{display:grid;grid-template-columns:6.5rem 1fr;border:0;padding:.1rem 0;overflow-wrap:anywhere}td:empty{display:none}\
td::before{content:attr(data-label);color:#666}}\
@media(prefers-color-scheme:dark){body{background:#151515;color:#ddd}th,td,tr{border-color:#444}.error{color:#ff8a80}\
.warning{color:#ffcc80}small,td::before{color:#aaa}}";

/// Text of others, safe between tags and in attributes.
struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Sink<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl Write for Sink<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars().try_for_each(|c| match c {
                    '<' => self.0.write_str("&lt;"),
                    '>' => self.0.write_str("&gt;"),
                    '&' => self.0.write_str("&amp;"),
                    '"' => self.0.write_str("&quot;"),
                    '\'' => self.0.write_str("&#39;"),
                    other => self.0.write_char(other),
                })
            }
        }
        write!(Sink(f), "{}", self.0)
    }
}

pub(crate) fn render(status: &Status, config: &Config, problems: &[Problem]) -> String {
    let mut page = String::with_capacity(16 << 10);
    // Writing to a string cannot fail.
    let _ = write(&mut page, status, config, problems);
    page
}

fn write(page: &mut String, status: &Status, config: &Config, problems: &[Problem]) -> fmt::Result {
    write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sluice</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body><h1>Sluice {}</h1>",
        Escaped(&status.version)
    )?;
    write!(page, "<p>Generation {}, running since {}.", status.generation, wire::text(status.started))?;
    if let Some(reload) = &status.last_reload {
        write!(page, " Last change at {}: {}.", wire::text(reload.time), Escaped(&reload.summary))?;
    }
    if status.draining {
        page.push_str(" <strong class=\"warning\">Draining.</strong>");
    }
    if let Some(last_good) = &status.last_good {
        write!(page, " <strong class=\"warning\">The API server is away: {}.</strong>", Escaped(last_good))?;
    }
    page.push_str("</p>");
    table(page, "Problems", ["Code", "Where", "What"], problems.len(), problems.iter().map(problem_row))?;
    let listeners = rows::listeners(config, status);
    let columns = ["Address", "Protocol", "Listener", "Hosts", "Certs", "Open"];
    table(page, "Listeners", columns, listeners.len(), listeners.iter().map(listener_row))?;
    let (routes, count) = rows::routes(config, MAX_ROWS);
    let columns = ["Listener", "Host", "Match", "Rule", "Does", "Plugins"];
    table(page, "Routes", columns, count, routes.iter().map(route_row))?;
    let columns = ["Backend", "Address", "State", "In flight"];
    table(page, "Endpoints", columns, status.endpoints.len(), status.endpoints.iter().map(endpoint_row))?;
    let certificates = rows::certificates(config, SystemTime::now());
    let columns = ["Names", "Secret", "Ends", "Days left", "Listeners"];
    table(page, "Certificates", columns, certificates.len(), certificates.iter().map(certificate_row))?;
    let columns = ["Plugin", "SHA-256", "Source", "State"];
    table(page, "Plugins", columns, status.plugins.len(), status.plugins.iter().map(plugin_row))?;
    if !status.watches.is_empty() {
        let columns = ["Kind", "State", "Objects", "Stale for", "Why"];
        table(page, "Watches", columns, status.watches.len(), status.watches.iter().map(watch_row))?;
    }
    page.push_str(
        "<p><a href=\"/config\">Configuration</a> · <a href=\"/problems\">Problems</a> · <a href=\"/status\">Status</a> · <a href=\"/log-level\">Log level</a></p></body></html>\n",
    );
    Ok(())
}

/// What stands in one cell, and how.
struct Cell {
    class: &'static str,
    html: String,
}

impl Cell {
    fn of(text: impl Display) -> Cell {
        Cell { class: "", html: Escaped(text).to_string() }
    }

    /// A text that may be long, and is not made of words.
    fn code(text: impl Display) -> Cell {
        Cell { class: "", html: format!("<code>{}</code>", Escaped(text)) }
    }

    fn class(self, class: &'static str) -> Cell {
        Cell { class, ..self }
    }
}

/// `count`: of how many rows these are the first.
fn table<const N: usize>(
    page: &mut String,
    title: &str,
    columns: [&str; N],
    count: usize,
    rows: impl Iterator<Item = [Cell; N]>,
) -> fmt::Result {
    write!(page, "<h2>{title} ({count})</h2>")?;
    if count == 0 {
        return Ok(());
    }
    page.push_str("<div class=\"table\"><table><thead><tr>");
    for column in columns {
        write!(page, "<th>{column}</th>")?;
    }
    page.push_str("</tr></thead><tbody>");
    for row in rows.take(MAX_ROWS) {
        page.push_str("<tr>");
        for (column, Cell { class, html }) in columns.iter().zip(row) {
            let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
            // One child, so that what is in it is not torn apart beside its label.
            let html = if html.is_empty() { html } else { format!("<div>{html}</div>") };
            write!(page, "<td data-label=\"{column}\"{class}>{html}</td>")?;
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table></div>");
    if count > MAX_ROWS {
        write!(page, "<p>The first {MAX_ROWS} of {count}.</p>")?;
    }
    Ok(())
}

fn problem_row(problem: &Problem) -> [Cell; 3] {
    let class = match problem.severity {
        Severity::Error => "id error",
        Severity::Warning => "id warning",
    };
    let object = problem.object.as_ref().map(ToString::to_string).unwrap_or_default();
    let location = problem.location.as_ref().map(ToString::to_string).unwrap_or_default();
    let place =
        format!("{} <code>{}</code><br><small>{}</small>", Escaped(object), Escaped(&problem.field), Escaped(location));
    let what = format!("{}<br><small>{}</small>", Escaped(&problem.message), Escaped(&problem.hint));
    [Cell::of(problem.code).class(class), Cell { class: "", html: place }, Cell { class: "", html: what }]
}

fn listener_row(row: &ListenerRow) -> [Cell; 6] {
    let certificates = if row.certificates > 0 { row.certificates.to_string() } else { String::new() };
    let open = if row.open { Cell::of("yes") } else { Cell::of("no").class("warning") };
    [
        Cell::of(row.address),
        Cell::of(&row.protocol),
        Cell::of(&row.listener),
        Cell::of(&row.hostname),
        Cell::of(certificates),
        open,
    ]
}

fn route_row(row: &RouteRow) -> [Cell; 6] {
    [
        Cell::of(&row.listener),
        Cell::of(&row.host),
        Cell::code(&row.matches),
        Cell::of(&row.rule),
        Cell::of(&row.action),
        Cell::of(row.plugins.join(", ")),
    ]
}

fn endpoint_row(endpoint: &EndpointStatus) -> [Cell; 4] {
    let class = if endpoint.is_ready() { "" } else { "warning" };
    [
        Cell::of(&endpoint.backend),
        Cell::of(&endpoint.address),
        Cell::of(&endpoint.state).class(class),
        Cell::of(endpoint.in_flight),
    ]
}

fn certificate_row(row: &CertificateRow) -> [Cell; 5] {
    let class = match row.days_left {
        ..0 => "error",
        0..=EXPIRES_SOON_DAYS => "warning",
        _ => "",
    };
    [
        Cell::of(row.names.join(", ")),
        Cell::of(row.secret.as_deref().unwrap_or("the gateway's own")),
        Cell::of(row.ends()),
        Cell::of(row.days_left).class(class),
        Cell::of(row.listeners.join(", ")),
    ]
}

fn plugin_row(plugin: &PluginStatus) -> [Cell; 4] {
    let class = if plugin.state.starts_with("failed") { "error" } else { "" };
    let (digest, source) = (Cell::code(&plugin.digest), Cell::of(&plugin.source));
    [Cell::of(&plugin.name), digest, source, Cell::of(&plugin.state).class(class)]
}

fn watch_row(watch: &WatchStatus) -> [Cell; 5] {
    let class = match watch.state.as_str() {
        "forbidden" | "failing" => "error",
        "syncing" | "not installed" => "warning",
        _ => "",
    };
    let stale = if watch.stale.is_zero() { String::new() } else { format!("{:.0} s", watch.stale.as_secs_f64()) };
    [
        Cell::of(&watch.kind),
        Cell::of(&watch.state).class(class),
        Cell::of(watch.objects),
        Cell::of(stale),
        Cell::of(&watch.message),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reload;
    use sluice_model::{Code, Kind, ObjectRef};

    fn status() -> Status {
        Status {
            version: "0.0.0".into(),
            started: SystemTime::UNIX_EPOCH,
            generation: 7,
            last_reload: Some(Reload { time: SystemTime::UNIX_EPOCH, summary: "HTTPRoute <b>/x".into() }),
            draining: false,
            open: Vec::new(),
            open_udp: Vec::new(),
            endpoints: Vec::new(),
            plugins: Vec::new(),
            watches: Vec::new(),
            last_good: None,
        }
    }

    #[test]
    fn what_configuration_says_is_text_and_never_markup() {
        let object = ObjectRef::new(Kind::Ingress, "shop", "<script>alert(1)</script>");
        let problem = Problem::error(Code::InvalidHostname, &object, "spec[\"x\"]", "`<img src=x onerror='y'>` & more");
        let page = render(&status(), &Config::default(), &[problem]);
        assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("<b>/x"), "{page}");
        assert!(page.contains("&lt;img src=x onerror=&#39;y&#39;&gt;` &amp; more"));
        assert!(page.contains("Generation 7"));
    }

    #[test]
    fn watches_are_shown_where_there_are_any() {
        assert!(!render(&status(), &Config::default(), &[]).contains("Watches"));
        let watch = WatchStatus {
            kind: "HTTPRoute".into(),
            state: "forbidden".into(),
            message: "needs <list>".into(),
            stale: std::time::Duration::from_secs(7),
            objects: 3,
        };
        let page = render(&Status { watches: vec![watch], ..status() }, &Config::default(), &[]);
        for cell in [
            "<td data-label=\"State\" class=\"error\"><div>forbidden</div></td>",
            "<td data-label=\"Stale for\"><div>7 s</div></td>",
            "<td data-label=\"Why\"><div>needs &lt;list&gt;</div></td>",
        ] {
            assert!(page.contains(cell), "{cell}: {page}");
        }
    }

    #[test]
    fn last_good_resources_are_said_while_they_are_in_use() {
        assert!(!render(&status(), &Config::default(), &[]).contains("API server is away"));
        let said = Status { last_good: Some("kept <here> 7 s ago".into()), ..status() };
        let page = render(&said, &Config::default(), &[]);
        assert!(page.contains("The API server is away: kept &lt;here&gt; 7 s ago."), "{page}");
    }

    #[test]
    fn a_long_table_is_cut_and_says_so() {
        let object = ObjectRef::new(Kind::Ingress, "shop", "web");
        let problems = vec![Problem::error(Code::InvalidPath, &object, "", "x"); MAX_ROWS + 1];
        let page = render(&status(), &Config::default(), &problems);
        assert!(page.contains(&format!("The first {MAX_ROWS} of {}.", MAX_ROWS + 1)));
        assert_eq!(page.matches("SLUICE-P102").count(), MAX_ROWS);
    }
}
