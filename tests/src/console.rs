//! `console` blocks of documents: commands, and what they print.

/// The commands of the blocks, with what they are shown to print. A line that ends in a backslash goes on in the next.
pub fn commands(document: &str) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    for line in document.lines() {
        if line.starts_with("```") {
            inside = line.trim_end() == "```console";
        } else if inside {
            match (line.strip_prefix("$ "), commands.last_mut()) {
                (Some(command), _) => commands.push((command.to_owned(), String::new())),
                (None, Some((command, output))) => {
                    if command.ends_with('\\') && output.is_empty() {
                        command.pop();
                        command.push_str(line.trim_start());
                    } else {
                        output.push_str(line);
                        output.push('\n');
                    }
                }
                (None, None) => {}
            }
        }
    }
    commands
}

/// Whether `actual` is `shown`, where each `…` stands for anything.
pub fn fits(shown: &str, actual: &str) -> bool {
    let mut rest = actual.trim_end();
    let mut parts = shown.trim_end().split('…').peekable();
    let mut first = true;
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        let at = if last && !first { rest.rfind(part) } else { rest.find(part) };
        match at {
            Some(at) if !first || at == 0 => rest = &rest[at + part.len()..],
            _ => return false,
        }
        first = false;
    }
    rest.is_empty() || shown.trim_end().ends_with('…')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ellipsis_stands_for_anything_and_nothing_else_does() {
        for (shown, actual, good) in [
            ("a", "a\n", true),
            ("a", "b", false),
            ("a…c", "abbc", true),
            ("a…c", "abb", false),
            ("a…", "abb", true),
            ("…c", "abc", true),
            ("a", "ab", false),
        ] {
            assert_eq!(fits(shown, actual), good, "{shown} {actual}");
        }
    }

    #[test]
    fn a_command_may_take_two_lines_and_is_followed_by_what_it_prints() {
        let document = "text\n```console\n$ curl a \\\n    b\none\ntwo\n$ ls\n```\n```yaml\n$ no\n```\n";
        let found = commands(document);
        assert_eq!(found, [("curl a b".to_owned(), "one\ntwo\n".to_owned()), ("ls".to_owned(), String::new())]);
    }
}
