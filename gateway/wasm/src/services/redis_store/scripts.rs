//! What is more than one command, and must be one step.

use redis::Cmd;
use std::sync::LazyLock;

pub(super) static COMPARE_AND_SWAP: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/compare_and_swap.lua")));
pub(super) static INCREMENT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/increment.lua")));
pub(super) static TAKE_TOKENS: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/take_tokens.lua")));

/// A script with its digest. It works on one key.
pub(super) struct Script {
    code: &'static str,
    digest: String,
}

impl Script {
    fn new(code: &'static str) -> Script {
        Script { code, digest: redis::Script::new(code).get_hash().to_owned() }
    }

    #[cfg(test)]
    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    /// For a server that has seen it.
    pub(super) fn by_digest(&self, key: &str, arguments: &[&[u8]]) -> Cmd {
        command("EVALSHA", &self.digest, key, arguments)
    }

    /// For one that has not: it keeps it.
    pub(super) fn as_a_whole(&self, key: &str, arguments: &[&[u8]]) -> Cmd {
        command("EVAL", self.code, key, arguments)
    }
}

fn command(name: &str, script: &str, key: &str, arguments: &[&[u8]]) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(script).arg(1).arg(key);
    for argument in arguments {
        command.arg(*argument);
    }
    command
}
