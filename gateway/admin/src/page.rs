//! The status page: one HTML document without scripts or anything to load. Whatever comes from configuration is
//! escaped.

use crate::{Status, WatchStatus};
use jiff::Timestamp;
use sluice_model::config::{Action, BackendTarget, Config, PathMatch, RouteMatch, Rule};
use sluice_model::{Problem, Severity};
use std::fmt::{self, Display, Write};
use std::time::SystemTime;

/// Rows of one table. `/config` has them all.
const MAX_ROWS: usize = 500;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222;background:#fff}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #ddd;vertical-align:top}th{font-weight:600}\
td{overflow-wrap:anywhere}code{font-size:.9em}.error{color:#b00020}.warning{color:#8a5a00}\
@media(prefers-color-scheme:dark){body{background:#151515;color:#ddd}th,td{border-color:#444}.error{color:#ff8a80}.warning{color:#ffcc80}}";

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
        Escaped(status.version)
    )?;
    write!(page, "<p>Generation {}, running since {}.", status.generation, time(status.started))?;
    if let Some((when, what)) = &status.last_reload {
        write!(page, " Last change at {}: {}.", time(*when), Escaped(what))?;
    }
    if status.draining {
        page.push_str(" <strong class=\"warning\">Draining.</strong>");
    }
    if let Some(last_good) = &status.last_good {
        write!(page, " <strong class=\"warning\">The API server is away: {}.</strong>", Escaped(last_good))?;
    }
    page.push_str("</p>");
    problems_table(page, problems)?;
    listeners_table(page, config)?;
    routes_table(page, config)?;
    let endpoints = status.endpoints.iter().map(|e| {
        format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            Escaped(&e.backend),
            Escaped(&e.address),
            Escaped(&e.state),
            e.in_flight
        )
    });
    table(page, "Endpoints", &["Backend", "Address", "State", "Requests in flight"], endpoints)?;
    let plugins = status.plugins.iter().map(|p| {
        format!(
            "<tr><td>{}</td><td><code>{}</code></td><td>{}</td></tr>",
            Escaped(&p.name),
            Escaped(&p.digest),
            Escaped(&p.state)
        )
    });
    table(page, "Plugins", &["Plugin and use", "SHA-256", "State"], plugins)?;
    if !status.watches.is_empty() {
        let columns = ["Kind", "State", "Objects", "Stale for", "Why"];
        table(page, "Watches", &columns, status.watches.iter().map(watch_row))?;
    }
    page.push_str(
        "<p><a href=\"/config\">Configuration</a> · <a href=\"/problems\">Problems</a> · <a href=\"/log-level\">Log level</a></p></body></html>\n",
    );
    Ok(())
}

fn watch_row(watch: &WatchStatus) -> String {
    let class = match watch.state {
        "forbidden" | "failing" => "error",
        "syncing" | "not installed" => "warning",
        _ => "",
    };
    let stale = if watch.stale.is_zero() { String::new() } else { format!("{:.0} s", watch.stale.as_secs_f64()) };
    format!(
        "<tr><td>{}</td><td class=\"{class}\">{}</td><td>{}</td><td>{stale}</td><td>{}</td></tr>",
        Escaped(watch.kind),
        Escaped(watch.state),
        watch.objects,
        Escaped(&watch.message)
    )
}

fn table(page: &mut String, title: &str, columns: &[&str], rows: impl ExactSizeIterator<Item = String>) -> fmt::Result {
    let count = rows.len();
    write!(page, "<h2>{title} ({count})</h2>")?;
    if count == 0 {
        return Ok(());
    }
    page.push_str("<table><thead><tr>");
    for column in columns {
        write!(page, "<th>{column}</th>")?;
    }
    page.push_str("</tr></thead><tbody>");
    page.extend(rows.take(MAX_ROWS));
    page.push_str("</tbody></table>");
    if count > MAX_ROWS {
        write!(page, "<p>The first {MAX_ROWS} of {count}.</p>")?;
    }
    Ok(())
}

fn problems_table(page: &mut String, problems: &[Problem]) -> fmt::Result {
    let rows = problems.iter().map(|problem| {
        let class = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let object = problem.object.as_ref().map(ToString::to_string).unwrap_or_default();
        let location = problem.location.as_ref().map(ToString::to_string).unwrap_or_default();
        format!(
            "<tr><td class=\"{class}\">{}</td><td>{} <code>{}</code><br><small>{}</small></td><td>{}<br><small>{}</small></td></tr>",
            problem.code,
            Escaped(object),
            Escaped(&problem.field),
            Escaped(location),
            Escaped(&problem.message),
            Escaped(&problem.hint)
        )
    });
    table(page, "Problems", &["Code", "Where", "What"], rows)
}

fn listeners_table(page: &mut String, config: &Config) -> fmt::Result {
    let mut rows = Vec::new();
    for (address, port) in &config.ports {
        for listener in &port.listeners {
            let certificates = listener.tls.as_ref().map_or(0, |tls| tls.certificates.len());
            rows.push(format!(
                "<tr><td>{address}</td><td>{:?}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                port.protocol,
                Escaped(&listener.id),
                Escaped(&listener.hostname),
                if listener.tls.is_some() { certificates.to_string() } else { String::new() },
            ));
        }
    }
    table(page, "Listeners", &["Address", "Protocol", "Listener", "Hosts", "Certificates"], rows.into_iter())
}

fn routes_table(page: &mut String, config: &Config) -> fmt::Result {
    let mut rows = Vec::new();
    for (listener, hosts) in &config.virtual_hosts {
        for (pattern, host) in hosts {
            for route in &host.matches {
                let Some(rule) = host.rules.get(route.rule as usize) else { continue };
                rows.push(route_row(&format!("{listener}"), &format!("{pattern}"), route, rule));
            }
        }
    }
    table(page, "Routes", &["Listener", "Host", "Match", "Rule", "Does", "Plugins"], rows.into_iter())
}

fn route_row(listener: &str, host: &str, route: &RouteMatch, rule: &Rule) -> String {
    let path = match &route.path {
        PathMatch::Exact(path) => format!("= {path}"),
        PathMatch::Prefix(path) => format!("{path}/"),
        PathMatch::Regex(pattern) => format!("~ {}", pattern.source),
    };
    let mut conditions = path;
    if let Some(method) = &route.method {
        conditions.insert_str(0, &format!("{method} "));
    }
    for header in &route.headers {
        conditions.push_str(&format!(" [{}]", header.name));
    }
    for query in &route.query {
        conditions.push_str(&format!(" ?{}", query.name));
    }
    let plugins: Vec<&str> = rule.plugins.iter().map(|plugin| &*plugin.name).collect();
    format!(
        "<tr><td>{}</td><td>{}</td><td><code>{}</code></td><td>{}</td><td>{}</td><td>{}</td></tr>",
        Escaped(listener),
        Escaped(host),
        Escaped(conditions),
        Escaped(&rule.id),
        Escaped(action(&rule.action)),
        Escaped(plugins.join(", "))
    )
}

fn action(action: &Action) -> String {
    match action {
        Action::Redirect(redirect) => format!("redirect {}", redirect.status.as_u16()),
        Action::Reply { status, reason } => format!("reply {} ({reason})", status.as_u16()),
        Action::Forward(backends) => {
            let parts: Vec<String> = backends
                .iter()
                .map(|backend| match &backend.target {
                    BackendTarget::Backend(key) => format!("{key} × {}", backend.weight),
                    BackendTarget::Invalid { status, .. } => format!("reply {} × {}", status.as_u16(), backend.weight),
                })
                .collect();
            parts.join(", ")
        }
    }
}

fn time(time: SystemTime) -> String {
    Timestamp::try_from(time).map(|t| format!("{t:.0}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_model::{Code, Kind, ObjectRef};

    fn status() -> Status {
        Status {
            version: "0.0.0",
            started: SystemTime::UNIX_EPOCH,
            generation: 7,
            last_reload: Some((SystemTime::UNIX_EPOCH, "HTTPRoute <b>/x".into())),
            draining: false,
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
            kind: "HTTPRoute",
            state: "forbidden",
            message: "needs <list>".into(),
            stale: std::time::Duration::from_secs(7),
            objects: 3,
        };
        let page = render(&Status { watches: vec![watch], ..status() }, &Config::default(), &[]);
        let row = "<td class=\"error\">forbidden</td><td>3</td><td>7 s</td><td>needs &lt;list&gt;</td>";
        assert!(page.contains(row), "{page}");
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
