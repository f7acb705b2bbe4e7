//! The filters of a rule or a backendRef, together: which may stand beside which, and what they come to.

use super::backend::backend;
use super::filter::{self, Filter};
use super::rule::{Invalid, RuleBuilder};
use crate::policy::Chain;
use crate::report::Report;
use crate::values::number;
use crate::world::Compiled;
use sluice_model::config::{Filters, Mirror, Redirect};
use sluice_model::object::NamespacedName;
use sluice_model::{Code, Kind, ObjectRef, Problem};
use std::sync::Arc;

/// What the filters of one rule or backendRef say.
#[derive(Default)]
pub(super) struct Filtered {
    pub(super) filters: Filters,
    pub(super) redirect: Option<Redirect>,
    pub(super) extensions: Vec<NamespacedName>,
    /// A filter that can't be used: requests must not go on as if it were not there.
    pub(super) broken: bool,
}

impl RuleBuilder<'_> {
    #[allow(clippy::too_many_lines)] // one arm a filter; apart they would hide the order
    pub(super) fn filters(
        &self,
        views: &[Filter<'_>],
        field: &str,
        prefixes: bool,
        of_rule: bool,
        chain: &Chain<'_>,
        compiled: &mut Compiled,
    ) -> Filtered {
        let mut out = Filtered::default();
        let mut seen: Vec<&'static str> = Vec::new();
        for (i, view) in views.iter().enumerate() {
            let field = format!("{field}[{i}]");
            let mut report = Report::new(self.object, &mut compiled.problems);
            let kind = kind_of(view);
            let repeatable = matches!(view, Filter::Mirror(_) | Filter::Extension { .. });
            if seen.contains(&kind) && !repeatable {
                let message = format!("a second filter of type {kind}; only one of a kind is allowed");
                report.error(Code::InvalidCombination, field, message);
                out.broken = true;
                continue;
            }
            seen.push(kind);
            let used = match view {
                Filter::RequestHeaders(edit) => {
                    filter::header_ops(edit, &format!("{field}.requestHeaderModifier"), &mut report)
                        .map(|ops| out.filters.request_headers = ops)
                }
                Filter::ResponseHeaders(edit) => {
                    filter::header_ops(edit, &format!("{field}.responseHeaderModifier"), &mut report)
                        .map(|ops| out.filters.response_headers = ops)
                }
                Filter::Redirect(to) if of_rule => {
                    let field = format!("{field}.requestRedirect");
                    filter::redirect(to, &field, &mut report)
                        .filter(|r| {
                            prefix_is_known(filter::replaces_prefix(r.path.as_ref()), prefixes, &field, &mut report)
                        })
                        .map(|redirect| out.redirect = Some(redirect))
                }
                Filter::Rewrite(to) => {
                    let field = format!("{field}.urlRewrite");
                    filter::rewrite(to, &field, &mut report)
                        .filter(|r| {
                            prefix_is_known(filter::replaces_prefix(r.path.as_ref()), prefixes, &field, &mut report)
                        })
                        .map(|rewrite| out.filters.rewrite = Some(rewrite))
                }
                Filter::Cors(rules) if of_rule => filter::cors(rules, &format!("{field}.cors"), &mut report)
                    .map(|cors| out.filters.cors = Some(Arc::new(cors))),
                Filter::Mirror(to) => {
                    let field = format!("{field}.requestMirror");
                    // A mirror that leads nowhere takes nothing from the request.
                    let mirror = self.mirror(to, &field, chain, compiled);
                    mirror.map(|mirror| out.filters.mirrors.extend(mirror)).ok()
                }
                Filter::Extension { group, kind, name } if of_rule => {
                    let found = self.extension(group, kind, name, &format!("{field}.extensionRef"), compiled);
                    found.map(|name| out.extensions.push(name))
                }
                Filter::Incomplete(missing) => {
                    report.error(
                        Code::InvalidCombination,
                        format!("{field}.{missing}"),
                        "the field that `type` names is missing",
                    );
                    None
                }
                Filter::ExternalAuth(settings) if of_rule => {
                    let found = self.external_auth(settings, &format!("{field}.externalAuth"), chain, compiled);
                    found.map(|auth| out.filters.external_auth = Some(Arc::new(auth)))
                }
                Filter::Redirect(_) | Filter::Cors(_) | Filter::Extension { .. } | Filter::ExternalAuth(_) => {
                    let message =
                        format!("a filter of type {kind} is not supported on a backendRef; move it to the rule");
                    report.error(Code::FilterNotSupported, field, message);
                    None
                }
            };
            out.broken |= used.is_none();
        }
        if out.redirect.is_some() && out.filters.rewrite.is_some() {
            let message = "RequestRedirect and URLRewrite exclude each other";
            Report::new(self.object, &mut compiled.problems).error(Code::InvalidCombination, field, message);
            out.broken = true;
        }
        out
    }

    /// A TrafficPolicy without targetRefs, of the route's namespace.
    fn extension(
        &self,
        group: &str,
        kind: &str,
        name: &str,
        field: &str,
        compiled: &mut Compiled,
    ) -> Option<NamespacedName> {
        if group != Kind::TrafficPolicy.group() || kind != Kind::TrafficPolicy.name() {
            let message = format!(
                "an extension of kind `{kind}` of group `{group}` is not supported; sluice.dev TrafficPolicy is"
            );
            let problem = Problem::error(Code::KindNotSupported, self.object, format!("{field}.kind"), message);
            compiled.problems.push(problem);
            compiled.unresolve(self.object, "InvalidKind", field);
            return None;
        }
        let name = NamespacedName::new(self.object.namespace.clone(), name);
        compiled.deps.insert(ObjectRef::new(Kind::TrafficPolicy, name.namespace.clone(), name.name.clone()));
        match self.world.policies.named(&name) {
            None => {
                let message = format!("there is no TrafficPolicy {name}");
                let problem = Problem::error(Code::PolicyNotFound, self.object, format!("{field}.name"), message);
                compiled.problems.push(problem);
                compiled.unresolve(self.object, "BackendNotFound", field);
                None
            }
            Some(policy) if policy.targeted => {
                let message = format!("TrafficPolicy {name} has targetRefs; a filter needs one without");
                let problem = Problem::error(Code::PolicyNotApplicable, self.object, format!("{field}.name"), message);
                compiled.problems.push(problem);
                None
            }
            Some(_) => Some(name),
        }
    }

    fn mirror(
        &self,
        to: &filter::MirrorTo<'_>,
        field: &str,
        chain: &Chain<'_>,
        compiled: &mut Compiled,
    ) -> Result<Option<Mirror>, Invalid> {
        let target = format!("{field}.backendRef");
        let key = backend(self.world, self.object, self.place, &to.target, &target, chain, compiled);
        let mut report = Report::new(self.object, &mut compiled.problems);
        let (numerator, denominator) = match (to.percent, to.fraction) {
            (None, None) => (100, 100),
            (Some(percent), None) => {
                let percent = number(Some(percent), 0..=100, &format!("{field}.percent"), &mut report);
                (percent.ok_or(Invalid)?, 100)
            }
            (None, Some((numerator, denominator))) => {
                let denominator = number(
                    Some(denominator.unwrap_or(100)),
                    1..=i32::MAX,
                    &format!("{field}.fraction.denominator"),
                    &mut report,
                );
                let denominator = denominator.ok_or(Invalid)?;
                let field = format!("{field}.fraction.numerator");
                (number(Some(numerator), 0..=denominator, &field, &mut report).ok_or(Invalid)?, denominator)
            }
            (Some(_), Some(_)) => {
                report.error(Code::InvalidCombination, field, "percent and fraction exclude each other");
                return Err(Invalid);
            }
        };
        let (numerator, denominator) = (numerator.unsigned_abs(), denominator.unsigned_abs());
        Ok(key.ok().map(|backend| Mirror { backend, numerator, denominator }))
    }
}

fn prefix_is_known(replaces: bool, prefixes: bool, field: &str, report: &mut Report<'_>) -> bool {
    if replaces && !prefixes {
        let message = "ReplacePrefixMatch needs every match of the rule to be a PathPrefix";
        report.error(Code::InvalidCombination, format!("{field}.path"), message);
        return false;
    }
    true
}

fn kind_of(view: &Filter<'_>) -> &'static str {
    match view {
        Filter::RequestHeaders(_) => "RequestHeaderModifier",
        Filter::ResponseHeaders(_) => "ResponseHeaderModifier",
        Filter::Mirror(_) => "RequestMirror",
        Filter::Redirect(_) => "RequestRedirect",
        Filter::Rewrite(_) => "URLRewrite",
        Filter::Cors(_) => "CORS",
        Filter::Extension { .. } => "ExtensionRef",
        Filter::ExternalAuth(_) => "ExternalAuth",
        Filter::Incomplete(kind) => kind,
    }
}
