//! Which listener serves a request: the socket by port and protocol, the listener by SNI and Host.

use super::{Question, Verdict};
use crate::config::{Carries, Config, Listener, ListenerId, Port, Protocol};
use crate::{HostPattern, Reason};
use serde::Serialize;
use std::net::SocketAddr;

/// The listener that was chosen, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ListenerStep {
    pub chosen: Option<ListenerId>,
    pub address: Option<SocketAddr>,
    pub why: String,
    /// The others of that socket.
    pub others: Vec<OtherListener>,
}

/// A listener that shares the socket and was not chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OtherListener {
    pub listener: ListenerId,
    pub hostname: HostPattern,
    pub why: String,
}

pub(super) struct Choice<'c> {
    pub(super) step: ListenerStep,
    pub(super) listener: Result<&'c Listener, Verdict>,
}

pub(super) fn choose<'c>(config: &'c Config, question: &Question) -> Choice<'c> {
    let (address, port, note) = match socket(config, question) {
        Ok(found) => found,
        Err(text) => {
            let step = ListenerStep { chosen: None, address: None, why: text.clone(), others: Vec::new() };
            return Choice { step, listener: Err(Verdict { status: None, reason: None, text }) };
        }
    };
    if port.protocol == Protocol::Tcp {
        let text = format!("{address} takes bytes for a TCPRoute, and looks at no request");
        let step = ListenerStep { chosen: None, address: Some(address), why: text.clone(), others: Vec::new() };
        return Choice { step, listener: Err(Verdict { status: None, reason: None, text }) };
    }
    let by_host = most_specific(port, &question.host);
    let (by, name, found) = match port.protocol {
        Protocol::Http | Protocol::Tcp | Protocol::Udp => ("Host", question.host.as_str(), by_host),
        Protocol::Https => {
            let sni = question.sni.as_deref().unwrap_or_default();
            ("SNI", sni, most_specific(port, sni))
        }
    };
    let why = match found {
        Some(listener) => format!("{note}{by} `{name}` is within its hostname `{}`", listener.hostname),
        None => format!("{note}no listener of {address} has a hostname that means the {by} `{name}`"),
    };
    let step = ListenerStep {
        chosen: found.map(|l| l.id.clone()),
        address: Some(address),
        why,
        others: others(port, found, name, by),
    };
    let listener = match (found, port.protocol) {
        (None, Protocol::Http | Protocol::Tcp | Protocol::Udp) => {
            Err(Verdict::reply(Reason::RouteNotFound, step.why.clone()))
        }
        (None, Protocol::Https) => {
            let text = format!("the TLS handshake is refused (unrecognized_name): {}", step.why);
            Err(Verdict { status: None, reason: None, text })
        }
        (Some(listener), _) if listener.carries == Carries::Bytes => {
            let text = format!("listener {} takes bytes for a TLSRoute, and looks at no request", listener.id);
            Err(Verdict { status: None, reason: None, text })
        }
        (Some(listener), Protocol::Http | Protocol::Tcp | Protocol::Udp) => Ok(listener),
        (Some(listener), Protocol::Https) => match by_host {
            Some(other) if other.id == listener.id => Ok(listener),
            Some(other) => Err(Verdict::reply(
                Reason::MisdirectedRequest,
                format!("Host `{}` belongs to listener {}, SNI `{name}` to {}", question.host, other.id, listener.id),
            )),
            None => Err(Verdict::reply(
                Reason::RouteNotFound,
                format!("no listener of {address} has a hostname that means the Host `{}`", question.host),
            )),
        },
    };
    Choice { step, listener }
}

/// The socket, and a note where the URL did not name it.
fn socket<'c>(config: &'c Config, question: &Question) -> Result<(SocketAddr, &'c Port, String), String> {
    let (protocol, default) = if question.tls { (Protocol::Https, 443) } else { (Protocol::Http, 80) };
    let wanted = question.port.unwrap_or(default);
    let fits = |port: &&Port| port.protocol == protocol;
    let of_number = || config.ports.iter().filter(|(address, _)| address.port() == wanted).map(|(a, p)| (*a, &**p));
    let means_host = |(_, port): &(SocketAddr, &Port)| most_specific(port, &question.host).is_some();
    let suitable = || of_number().filter(|(_, port)| fits(port));
    if let Some((address, port)) = suitable().find(means_host).or_else(|| suitable().next()) {
        return Ok((address, port, String::new()));
    }
    if let Some((address, port)) = of_number().next() {
        return Err(format!("{address} speaks {:?}, not {protocol:?}", port.protocol));
    }
    if let Some(address) = config.udp_ports.keys().find(|address| address.port() == wanted) {
        return Err(format!("{address} takes datagrams for a UDPRoute, and looks at no request"));
    }
    let sockets: Vec<String> = config.ports.iter().map(|(a, p)| format!("{a} ({:?})", p.protocol)).collect();
    if question.port.is_none() {
        let mut ports: Vec<_> = config.ports.iter().filter(|(_, port)| port.protocol == protocol).collect();
        ports.sort_by_key(|(address, port)| (most_specific(port, &question.host).is_none(), address.port()));
        if let Some((address, port)) = ports.first() {
            return Ok((**address, port, format!("the URL names no port and nothing listens on {wanted}; ")));
        }
    }
    Err(match sockets.as_slice() {
        [] => "nothing listens: the configuration has no listener".to_owned(),
        _ => format!("nothing listens on port {wanted}; there are {}", sockets.join(", ")),
    })
}

fn most_specific<'p>(port: &'p Port, host: &str) -> Option<&'p Listener> {
    port.listeners.iter().map(|l| &**l).filter(|l| l.hostname.matches(host)).min_by(|a, b| a.hostname.cmp(&b.hostname))
}

fn others(port: &Port, chosen: Option<&Listener>, name: &str, by: &str) -> Vec<OtherListener> {
    let why = |listener: &Listener| {
        if listener.hostname.matches(name) {
            "its hostname is less specific".to_owned()
        } else {
            format!("its hostname does not mean the {by} `{name}`")
        }
    };
    port.listeners
        .iter()
        .filter(|l| chosen.is_none_or(|c| c.id != l.id))
        .map(|l| OtherListener { listener: l.id.clone(), hostname: l.hostname.clone(), why: why(l) })
        .collect()
}
