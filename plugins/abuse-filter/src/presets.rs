//! Rules that come with the plugin: few, and such that an honest request hardly matches. They keep noise away; they are no
//! wall.

use crate::{Part, Preset, Rule};
use kit::HeaderName;

pub(crate) fn rules(preset: Preset) -> Vec<Rule> {
    let user_agent: Vec<HeaderName> = HeaderName::new("user-agent").into_iter().collect();
    let rule = |name: &str, pattern: &str, parts: &[Part], headers: &[HeaderName]| Rule {
        name: name.to_owned(),
        pattern: pattern.to_owned(),
        parts: parts.to_vec(),
        headers: headers.to_vec(),
    };
    let (path, target) = (&[Part::Path], &[Part::Path, Part::Query]);
    match preset {
        Preset::Scanners => vec![rule(
            "preset-scanners",
            r"\b(sqlmap|nikto|nmap|masscan|zgrab|nuclei|gobuster|dirbuster|feroxbuster|wpscan|wfuzz|acunetix|nessus|openvas)\b",
            &[Part::Headers],
            &user_agent,
        )],
        Preset::Probes => vec![
            rule(
                "preset-probes-dotfiles",
                r"/\.(git|svn|hg|env|aws|ssh|htaccess|htpasswd|ds_store)(/|\.|$)",
                path,
                &[],
            ),
            rule("preset-probes-dumps", r"\.(sql|bak|old|swp|dump)(\.gz|\.zip)?$", path, &[]),
            rule("preset-probes-traversal", r"(^|[/\\=])\.\.([/\\]|$)|/etc/(passwd|shadow)|\bwin\.ini\b", target, &[]),
        ],
        Preset::Injection => vec![
            rule(
                "preset-injection-sql",
                r"\bunion(\s|/\*.*\*/|\()+(all(\s|\()+)?select\b|'\s*or\s+'?\d+'?\s*=\s*'?\d|;\s*drop\s+table\b|\bsleep\(\d+\)",
                target,
                &[],
            ),
            rule("preset-injection-shell", r"[;&|`]\s*(cat|curl|wget|nc|bash|sh)\s|\$\(|\$\{jndi:", target, &[]),
            rule("preset-injection-script", r"<script\b|\bjavascript:|\bon(error|load|mouseover)\s*=", target, &[]),
        ],
    }
}
