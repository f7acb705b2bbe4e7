//! The README's own command lines, run against the quickstart's own files, with the outputs that it shows.
//!
//! Only ports differ: those that the README names (8080, 8443, the admin ports, the backends') are replaced by free
//! ones, in the files and in the commands alike. An `…` in a shown output stands for anything.

use sluice_tests::{Folder, Gateway, binary, console, gateway::Options, guests, ports, wait};
use std::process::{Child, Command, Stdio};

/// The ports of the quickstart, and what they become here.
struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// Whole numbers only, each once: a free port may hold the digits of another that is replaced.
    fn replace(&self, text: &str) -> String {
        let runs = text.as_bytes().chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit());
        let text = runs.map(|run| std::str::from_utf8(run).expect("digits are whole characters"));
        let ports = |run: &str| Some(self.0.iter().find(|(from, _)| run.parse() == Ok(*from))?.1.to_string());
        text.map(|run| ports(run).unwrap_or_else(|| run.to_owned())).collect()
    }

    fn of(&self, port: u16) -> u16 {
        self.0.iter().find(|(from, _)| *from == port).expect("a port of the quickstart").1
    }
}

/// Killed when dropped.
struct Echo(Child);

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The README's `curl` lines, with what they print.
fn commands(readme: &str) -> Vec<(String, String)> {
    let mut commands = console::commands(readme);
    commands.retain(|(command, _)| command.starts_with("curl "));
    commands
}

async fn quickstart() -> (Gateway, Vec<Echo>, Folder, Ports) {
    let ports =
        Ports([8080, 8443, 9101, 9102, 9103, 9104, 9105].into_iter().map(|port| (port, ports::free())).collect());
    let folder = Folder::new();
    let source = binary::root().join("deploy/examples/quickstart");
    for entry in std::fs::read_dir(&source).unwrap() {
        let entry = entry.unwrap();
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let text = ports.replace(&text);
        // The example names the plugin where `make plugins` puts it; here it lies beside the copy.
        let text: String = text
            .lines()
            .map(|line| match line.split_once("path: ") {
                Some((before, path)) if path.ends_with("key-auth.wasm") || path.ends_with("key_auth.wasm") => {
                    format!("{before}path: key-auth.wasm\n")
                }
                _ => format!("{line}\n"),
            })
            .collect();
        folder.write(entry.file_name().to_str().unwrap(), text);
    }
    folder.write("key-auth.wasm", std::fs::read(guests::shipped("key-auth")).unwrap());
    let echoes = [("web", 9101), ("files", 9102), ("api", 9103), ("pizza", 9104), ("sides", 9105)]
        .into_iter()
        .map(|(name, port)| {
            let listen = format!("{name}=127.0.0.1:{}", ports.of(port));
            let child =
                Command::new(binary::sluice()).args(["echo", "--listen", &listen]).stdout(Stdio::null()).spawn();
            Echo(child.unwrap())
        })
        .collect();
    // The quickstart's Ingress ports are the defaults of a folder; here a class names others.
    folder.write(
        "ports.yaml",
        format!(
            "apiVersion: sluice.dev/v1alpha1\nkind: GatewayConfig\nmetadata: {{name: ports, namespace: shop}}\nspec: {{ingress: {{httpPort: {}, httpsPort: {}}}}}\n",
            ports.of(8080),
            ports.of(8443)
        ),
    );
    let ingress = std::fs::read_to_string(folder.path().join("ingress.yaml")).unwrap();
    folder.write(
        "ingress.yaml",
        ingress.replacen(
            "controller: sluice.dev/ingress-controller\n",
            "controller: sluice.dev/ingress-controller\n  parameters: {apiGroup: sluice.dev, kind: GatewayConfig, name: ports, namespace: shop, scope: Namespace}\n",
            1,
        ),
    );
    let gateway = Options::new(&folder).start().await;
    for port in [9101, 9102, 9103, 9104, 9105] {
        wait::until("the echo backends", || async {
            tokio::net::TcpStream::connect(("127.0.0.1", ports.of(port))).await.ok()
        })
        .await;
    }
    (gateway, echoes, folder, ports)
}

#[test]
fn a_port_is_replaced_once_whatever_digits_the_new_one_has() {
    let ports = Ports(vec![(8080, 19101), (9101, 19102), (9102, 8080)]);
    assert_eq!(ports.replace("localhost:8080/a9101…28080 9102"), "localhost:19101/a19102…28080 8080");
}

#[tokio::test]
async fn the_readmes_curl_lines_print_what_it_shows() {
    let readme = std::fs::read_to_string(binary::root().join("README.md")).expect("a README");
    let commands = commands(&readme);
    assert!(commands.len() >= 6, "the README shows only {} curl lines", commands.len());
    let (gateway, _echoes, _folder, mut ports) = quickstart().await;
    ports.0.extend([(9181, gateway.admin.port()), (9180, gateway.public.port())]);
    for (command, shown) in commands {
        let command = ports.replace(&command);
        let output = tokio::process::Command::new("bash").args(["-c", &command]).output().await.unwrap();
        let actual = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        assert!(
            console::fits(&ports.replace(&shown), &actual),
            "$ {command}\nshown:\n{shown}\nprinted:\n{actual}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
