//! Where the problems of one object are gathered while it is read.

use sluice_model::{Code, ObjectRef, Problem};

/// Problems of one object. Everything that reads values takes one, so that no bad value goes without a word.
pub(crate) struct Report<'p> {
    object: &'p ObjectRef,
    problems: &'p mut Vec<Problem>,
}

impl<'p> Report<'p> {
    pub(crate) fn new(object: &'p ObjectRef, problems: &'p mut Vec<Problem>) -> Self {
        Report { object, problems }
    }

    pub(crate) fn error(&mut self, code: Code, field: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem::error(code, self.object, field, message));
    }

    pub(crate) fn warn(&mut self, code: Code, field: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem::warning(code, self.object, field, message));
    }

    pub(crate) fn object(&self) -> &ObjectRef {
        self.object
    }
}

/// A problem as a condition's message: `spec.plugins[0].pluginRef: there is no Plugin shop/x (SLUICE-P206)`.
pub(crate) fn text(problem: &Problem) -> String {
    let field = if problem.field.is_empty() { String::new() } else { format!("{}: ", problem.field) };
    format!("{field}{} ({})", problem.message, problem.code)
}

/// Why a field of an object cannot be used: what was said last of it.
pub(crate) fn why(problems: &[Problem], object: &ObjectRef, field: &str) -> String {
    let of_field = |problem: &&Problem| {
        let rest = problem.field.strip_prefix(field);
        problem.object.as_ref() == Some(object)
            && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    problems.iter().rev().find(of_field).map_or_else(|| format!("{field} cannot be used"), text)
}
