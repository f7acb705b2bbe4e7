//! A host that serves folders: files, plugins, ports, certificates, endpoints.

use super::findings::{Check, Report};
use super::objects;
use crate::output::counted;
use crate::{admin, check, lifecycle};
use anyhow::Result;
use sluice_admin::ListenerRow;
use sluice_model::Code;
use sluice_model::config::Transport;
use sluice_proxy::downstream::can_bind;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Longest time to connect to a port of this host.
const CONNECT: Duration = Duration::from_secs(3);

pub(super) fn examine(report: &mut Report, paths: &[PathBuf], admin: SocketAddr) -> Result<()> {
    let reading = match check::read(paths) {
        Ok(reading) => reading,
        Err(error) => {
            let hint = "name folders and files that exist and may be read";
            report.error(Check::Configuration, "--config", format!("{error:#}"), hint);
            return Ok(());
        }
    };
    objects::problems(report, Check::Configuration, &reading.problems, &[]);
    if !report.has_found(Check::Configuration) {
        let (objects, files) = reading.counts();
        report.ok(Check::Configuration, "", format!("{} in {}", counted(objects, "object"), counted(files, "file")));
    }
    let plugins = reading.plugin_problems(None)?;
    objects::problems(report, Check::Plugins, &plugins, &[]);
    let plugins = &reading.config.plugins;
    // What has no code was named above.
    let count = plugins.values().filter(|plugin| plugin.source.is_some()).count();
    if count > 0 && !report.has_found(Check::Plugins) {
        report.ok(Check::Plugins, "", format!("{}: compiled, and configured as used", counted(count, "plugin")));
    }
    let running = running(report, admin)?;
    for (transport, address, _) in reading.config.sockets() {
        port(report, transport, address, admin, running.as_deref());
    }
    objects::certificates(report, &reading.config, SystemTime::now());
    objects::endpoints(report, &reading.config, |_| Code::NoEndpoints.hint().to_owned());
    Ok(())
}

/// The listeners of the gateway that runs on this host, if one does.
fn running(report: &mut Report, admin: SocketAddr) -> Result<Option<Vec<ListenerRow>>> {
    if let Err(error) = TcpStream::connect_timeout(&admin, CONNECT) {
        report.ok(Check::Ports, "", format!("no gateway runs with the admin address {admin} ({error})"));
        return Ok(None);
    }
    let rows = lifecycle::block_on(async { Ok(admin::read::<Vec<ListenerRow>>(admin, "/listeners").await) })?;
    match rows {
        Ok(rows) => {
            report.ok(Check::Ports, "", format!("a gateway runs with the admin address {admin}"));
            Ok(Some(rows))
        }
        Err(error) => {
            let hint = "give the gateway another --admin-address, and name it here with --admin";
            report.error(Check::Ports, admin, format!("{error:#}"), hint);
            Ok(None)
        }
    }
}

fn port(
    report: &mut Report,
    transport: Transport,
    address: SocketAddr,
    admin: SocketAddr,
    running: Option<&[ListenerRow]>,
) {
    let is_udp = transport == Transport::Udp;
    let of_it = |row: &&ListenerRow| row.open && row.address == address && (row.protocol == "UDP") == is_udp;
    let held = running.unwrap_or_default().iter().find(of_it).is_some();
    let subject = if is_udp { format!("{address}/udp") } else { address.to_string() };
    let error = match can_bind(transport, address) {
        Ok(()) => return report.ok(Check::Ports, subject, "can be bound"),
        Err(error) if held && error.kind() == ErrorKind::AddrInUse => {
            return report.ok(Check::Ports, subject, "is held by the gateway that runs");
        }
        Err(error) => error,
    };
    let port = address.port();
    let hint = match error.kind() {
        ErrorKind::AddrInUse => format!(
            "`ss -{}np sport = :{port}` says who listens there; for a gateway whose admin address is not {admin}, name it with --admin",
            if is_udp { "lu" } else { "lt" },
        ),
        ErrorKind::PermissionDenied => format!(
            "ports below 1024 take the capability CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=), or `sysctl net.ipv4.ip_unprivileged_port_start={port}`"
        ),
        ErrorKind::AddrNotAvailable => "`ip address` lists the addresses of this host".to_owned(),
        _ => Code::PortNotBound.hint().to_owned(),
    };
    report.error(Check::Ports, subject, format!("cannot be bound: {error}"), hint);
}
