//! An explanation as text for people: one step a paragraph, no colours.

use super::{ActionStep, BackendStep, Explanation, Nearest, RuleStep, Verdict, WhyNot};
use std::fmt::{self, Formatter};

/// Endpoints of one backend that are written out.
const ENDPOINTS: usize = 10;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.request)?;
        writeln!(f, "=> {}", self.verdict)?;
        writeln!(f)?;
        match (&self.listener.chosen, self.listener.address) {
            (Some(id), Some(address)) => writeln!(f, "listener  {id} on {address}: {}", self.listener.why)?,
            _ => writeln!(f, "listener  none: {}", self.listener.why)?,
        }
        for other in &self.listener.others {
            writeln!(f, "          not {} (`{}`): {}", other.listener, other.hostname, other.why)?;
        }
        if let Some(path) = &self.path
            && *path != self.request.path
        {
            writeln!(f, "path      {path} (normal form of {})", self.request.path)?;
        }
        for name in &self.dropped {
            writeln!(f, "dropped   {name}: this listener lets no field of this name in")?;
        }
        for host in &self.hosts {
            let found = if host.matched { "one of them matches" } else { "none matches" };
            writeln!(f, "host      {}: {} matches, {found}", host.hostname, host.matches)?;
        }
        if let Some(rule) = &self.rule {
            write_rule(f, rule)?;
        }
        if !self.nearest.is_empty() {
            writeln!(f, "\nnot taken")?;
        }
        self.nearest.iter().try_for_each(|nearest| write_nearest(f, nearest))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(status) = self.status {
            write!(f, "{status} ")?;
        }
        if let Some(reason) = self.reason {
            write!(f, "{reason}: ")?;
        }
        f.write_str(&self.text)
    }
}

fn write_rule(f: &mut Formatter<'_>, rule: &RuleStep) -> fmt::Result {
    writeln!(f, "rule      {}: {}", rule.id, rule.matched)?;
    for limit in &rule.limits {
        writeln!(f, "limit     {limit}")?;
    }
    for (n, plugin) in rule.plugins.iter().enumerate() {
        let mode = format!("{:?}", plugin.fail_mode).to_lowercase();
        write!(f, "plugin {:<2} {}: Plugin {}, fails {mode}", n + 1, plugin.name, plugin.plugin)?;
        match &plugin.when {
            Some(when) => writeln!(f, ", when {when}")?,
            None => writeln!(f)?,
        }
    }
    for filter in &rule.filters {
        writeln!(f, "filter    {filter}")?;
    }
    match &rule.action {
        ActionStep::Forward { backends } => backends.iter().try_for_each(|backend| write_backend(f, backend)),
        ActionStep::Redirect { to, .. } => writeln!(f, "redirect  {to}"),
        ActionStep::Reply { status, reason } => writeln!(f, "reply     {status} {reason}"),
    }
}

fn write_backend(f: &mut Formatter<'_>, backend: &BackendStep) -> fmt::Result {
    write!(f, "backend   {} (weight {}, {:.0} %)", backend.backend, backend.weight, backend.share)?;
    if !backend.reached.is_empty() {
        write!(f, ": {}", backend.reached)?;
    }
    writeln!(f)?;
    for filter in &backend.filters {
        writeln!(f, "          filter {filter}")?;
    }
    for endpoint in backend.endpoints.iter().take(ENDPOINTS) {
        write!(f, "          {}", endpoint.address)?;
        if let Some(alternate) = endpoint.alternate {
            write!(f, " (or {alternate})")?;
        }
        write!(f, " {}", endpoint.state)?;
        if let Some(zone) = &endpoint.zone {
            write!(f, ", zone {zone}")?;
        }
        writeln!(f)?;
    }
    if let Some(more) = backend.endpoints.len().checked_sub(ENDPOINTS).filter(|more| *more > 0) {
        writeln!(f, "          and {more} more")?;
    }
    match &backend.answer {
        Some(answer) => writeln!(f, "          answers {answer}"),
        None => Ok(()),
    }
}

fn write_nearest(f: &mut Formatter<'_>, nearest: &Nearest) -> fmt::Result {
    writeln!(f, "  {} on {}: {}", nearest.rule, nearest.hostname, nearest.asks)?;
    nearest.why.iter().try_for_each(|why| writeln!(f, "    {why}"))
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            WhyNot::Host { wanted } => write!(f, "the host is not {wanted}"),
            WhyNot::Path { wanted, note: None } => write!(f, "the path is not {wanted}"),
            WhyNot::Path { wanted, note: Some(note) } => write!(f, "the path is not {wanted} ({note})"),
            WhyNot::Method { wanted } => write!(f, "the method is not {wanted}"),
            WhyNot::GrpcMethod { wanted } => write!(f, "the gRPC method is not {wanted}"),
            WhyNot::HeaderMissing { name } => write!(f, "header {name} is missing"),
            WhyNot::HeaderDiffers { name, wanted } => write!(f, "header {name} is not {wanted}"),
            WhyNot::QueryMissing { name } => write!(f, "query parameter {name} is missing"),
            WhyNot::QueryDiffers { name, wanted } => write!(f, "query parameter {name} is not {wanted}"),
            WhyNot::Shadowed { by, because } => write!(f, "matches too, but {by} goes before it: {because}"),
        }
    }
}
