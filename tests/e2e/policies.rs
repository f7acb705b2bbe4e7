//! Each policy that ships, by its own page: the objects that its README shows are served, and its command lines print what
//! it shows.
//!
//! The route `shop` of the host shop.example goes to an echo of requests. Names are looked up and certificates trusted as a
//! reader's would be, and addresses of clients are believed (`X-Forwarded-For`), so that commands are those of the page. An
//! `…` stands for anything.

use sluice_tests::certificate::Authority;
use sluice_tests::objects::{class, configured_gateway, join, route_to, secret, service};
use sluice_tests::{Backend, Folder, Gateway, binary, console, guests, ports, wait};
use std::path::PathBuf;

const HOST: &str = "shop.example";

struct Stage {
    _gateway: Gateway,
    /// Where commands run.
    place: tempfile::TempDir,
    prelude: String,
    _backend: Backend,
    _folder: Folder,
}

fn readme(policy: &str) -> String {
    let path: PathBuf = binary::root().join("plugins").join(policy).join("README.md");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The one block of a language that the page has.
fn example(page: &str, policy: &str) -> String {
    let blocks: Vec<&str> =
        page.split("```yaml\n").skip(1).map(|rest| rest.split("\n```").next().unwrap_or_default()).collect();
    let [example] = &blocks[..] else { panic!("{policy}: the page has {} examples in YAML, not one", blocks.len()) };
    // Namespaces of tests are one; the page's is its reader's.
    format!("{}\n", example.replace("namespace: shop", "namespace: default"))
}

impl Stage {
    async fn set(policy: &str, example: &str) -> Stage {
        let (folder, authority, backend) = (Folder::new(), Authority::default(), Backend::echo("web").await);
        let (http, https) = (ports::free(), ports::free());
        folder.write(
            "stage.yaml",
            join([
                class(),
                configured_gateway(http, Some((https, "shop")), "trustedProxies: [127.0.0.0/8]"),
                secret("shop", &authority.leaf(&[HOST])),
                service("web", &[backend.address]),
                route_to("shop", &[HOST], "web"),
            ]),
        );
        folder.write(&format!("{policy}.wasm"), std::fs::read(guests::shipped(policy)).unwrap());
        folder.write("example.yaml", example);
        let gateway = Gateway::start(&folder).await;
        let (_, problems) = gateway.admin_get("/problems").await.unwrap();
        assert!(!problems.contains("SLUICE-P"), "{policy}: the example has problems: {problems}");
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("ca.pem"), authority.pem()).unwrap();
        std::os::unix::fs::symlink(gateway.access_log_file(), place.path().join("access.log")).unwrap();
        let prelude = format!(
            "curl() {{ command curl -sS --noproxy '*' --cacert ca.pem --connect-to {HOST}:80:127.0.0.1:{http} \
             --connect-to {HOST}:443:127.0.0.1:{https} \"$@\"; }}\n"
        );
        Stage { _gateway: gateway, place, prelude, _backend: backend, _folder: folder }
    }

    async fn run(&self, command: &str) -> (String, String) {
        let script = format!("{}{command}", self.prelude);
        let mut bash = tokio::process::Command::new("bash");
        let output = bash.args(["-c", &script]).current_dir(self.place.path()).output().await.unwrap();
        let [printed, said] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        (printed.replace('\r', ""), said)
    }

    /// What differs from what the page shows; none where nothing does.
    async fn play(&self, policy: &str, command: &str, shown: &str) -> Option<String> {
        if command.starts_with("tail ") {
            // A line of the access log is written after its answer was sent.
            let what = format!("{policy}: `{command}` to print\n{shown}");
            wait::until(&what, || async { console::fits(shown, &self.run(command).await.0).then_some(()) }).await;
            return None;
        }
        let (printed, said) = self.run(command).await;
        let differs = format!("{policy}\n$ {command}\nshown:\n{shown}\nprinted:\n{printed}\n{said}");
        (!console::fits(shown, &printed)).then_some(differs)
    }
}

#[tokio::test]
async fn the_example_of_each_policys_page_does_what_the_page_says() {
    let policies = guests::policies();
    assert!(policies.len() >= 11, "{policies:?}");
    let mut differences = Vec::new();
    for policy in policies {
        let page = readme(&policy);
        let commands = console::commands(&page);
        assert!(commands.len() >= 2, "{policy}: the page shows only {} commands", commands.len());
        let stage = Stage::set(&policy, &example(&page, &policy)).await;
        for (command, shown) in commands {
            differences.extend(stage.play(&policy, &command, &shown).await);
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
