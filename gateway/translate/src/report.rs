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
