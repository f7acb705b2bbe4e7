//! Backends: Deployments of `sluice echo`, whose answers name the pod, and Services.

use crate::cluster::{Pod, image};
use sluice_tests::raw;
use std::net::SocketAddr;

/// The port that backends listen on.
pub(crate) const PORT: u16 = 8080;

/// How a pod ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Finishes what runs when it is told to end, and takes nothing new: what a careful program does.
    Gracefully,
    /// Serves on for 5 s, until everybody has noticed.
    Late,
    /// At once, in the middle of whatever it does.
    AtOnce,
}

/// A Deployment and its Service, of the same name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backend {
    pub(crate) name: &'static str,
    pub(crate) replicas: u32,
    pub(crate) end: End,
    /// What Sluice speaks to it: `http` or `kubernetes.io/h2c`.
    pub(crate) protocol: &'static str,
}

impl Backend {
    pub(crate) const fn new(name: &'static str, replicas: u32) -> Backend {
        Backend { name, replicas, end: End::Gracefully, protocol: "http" }
    }

    pub(crate) fn objects(&self) -> String {
        format!("{}---\n{}", self.deployment(), self.service())
    }

    pub(crate) fn deployment(&self) -> String {
        let Backend { name, replicas, end, .. } = *self;
        let (grace, hook) = match end {
            End::Gracefully => (10, "{}"),
            End::Late => (10, "{preStop: {sleep: {seconds: 5}}}"),
            End::AtOnce => (0, "{}"),
        };
        let image = image();
        format!(
            "\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 2}}}}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: {grace}
      containers:
      - name: echo
        image: {image}
        imagePullPolicy: IfNotPresent
        args: [echo, \"--listen=[::]:{PORT}\", \"--name=$(POD_NAME)\"]
        env: [{{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
        ports: [{{name: http, containerPort: {PORT}}}]
        readinessProbe: {{httpGet: {{path: /health, port: http}}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 1}}
        lifecycle: {hook}
"
        )
    }

    fn service(&self) -> String {
        let Backend { name, protocol, .. } = *self;
        format!(
            "\
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: http, port: 80, targetPort: http, appProtocol: {protocol}}}]
"
        )
    }
}

/// An Ingress of all of a host to the Service `web`.
pub(crate) fn ingress(name: &str, host: &str) -> String {
    ingress_of(name, host, "{service: {name: web, port: {number: 80}}}", "")
}

/// The same to any backend, with TLS.
pub(crate) fn ingress_tls(name: &str, host: &str, backend: &str, secret: &str) -> String {
    ingress_of(name, host, backend, &format!("  tls: [{{hosts: [{host}], secretName: {secret}}}]\n"))
}

fn ingress_of(name: &str, host: &str, backend: &str, tls: &str) -> String {
    format!(
        "\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: {name}}}
spec:
  ingressClassName: sluice
{tls}  rules:
  - host: {host}
    http: {{paths: [{{path: /, pathType: Prefix, backend: {backend}}}]}}
"
    )
}

/// Has a pod's readiness probe answered with this status from now on.
pub(crate) async fn answer_probes_with(pod: &Pod, status: u16) {
    let request =
        format!("PUT /health?status={status} HTTP/1.1\r\nHost: pod\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let answer = raw::exchange(SocketAddr::from((pod.ip, PORT)), request).await.expect("the pod answers");
    assert_eq!(answer.status, 200, "{}", answer.text());
}
