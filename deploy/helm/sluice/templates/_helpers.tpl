{{- define "sluice.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The base of all names. Room is left for what is appended. */}}
{{- define "sluice.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "sluice.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "sluice.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "sluice.labels" -}}
{{ include "sluice.instance" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "sluice.instance" -}}
app.kubernetes.io/name: {{ include "sluice.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* What selects the proxies' pods. It can't be changed once a release is installed. */}}
{{- define "sluice.proxy.selector" -}}
{{ include "sluice.instance" . }}
app.kubernetes.io/component: proxy
{{- end -}}

{{- define "sluice.controller.selector" -}}
{{ include "sluice.instance" . }}
app.kubernetes.io/component: controller
{{- end -}}

{{- define "sluice.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The namespaces that are read, as a list in JSON; empty for all. */}}
{{- define "sluice.namespaces" -}}
{{- $namespaces := .Values.watchNamespaces -}}
{{- if and $namespaces .Values.config -}}
{{- $namespaces = append $namespaces .Release.Namespace -}}
{{- end -}}
{{- $namespaces | uniq | sortAlpha | toJson -}}
{{- end -}}

{{- define "sluice.ports.http" -}}
{{- dig "ingress" "httpPort" 80 .Values.config -}}
{{- end -}}

{{- define "sluice.ports.https" -}}
{{- dig "ingress" "httpsPort" 443 .Values.config -}}
{{- end -}}

{{/* What tells the roles apart, of a list of the chart's context and the role. Without a controller nobody writes to the
cluster, and listeners of Gateways bind the ports that they name. */}}
{{- define "sluice.roleArgs" -}}
{{- $role := index . 1 -}}
{{- with index . 0 -}}
- --role={{ $role }}
{{- if .Values.controller.enabled }}
- --system-namespace={{ .Release.Namespace }}
{{- $labels := list -}}
{{- range $name, $value := include "sluice.proxy.selector" . | fromYaml -}}
{{- $labels = append $labels (printf "%s=%s" $name $value) -}}
{{- end }}
- --gateway-services={{ join "," $labels }}
- --target-ports={{ int .Values.gateways.ports.first }}-{{ int .Values.gateways.ports.last }}
{{- if eq $role "controller" }}
- --proxy-service={{ .Release.Namespace }}/{{ include "sluice.fullname" . }}-proxies
- --ingress-service={{ .Release.Namespace }}/{{ include "sluice.fullname" . }}
{{- end }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The flags of `sluice run` that all roles have. */}}
{{- define "sluice.args" -}}
- run
- --kube
{{- range include "sluice.namespaces" . | fromJsonArray }}
- --namespace={{ . }}
{{- end }}
- --metrics-address={{ .Values.metrics.host }}:{{ .Values.metrics.port }}
- --state-dir=/var/lib/sluice
- --log-format={{ .Values.log.format }}
- --log-level={{ .Values.log.level }}
{{- end -}}

{{/* A pod is not root, can't become root, holds no capability, and writes nowhere but into memory. */}}
{{- define "sluice.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "sluice.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Probes of the metrics port. A pod that waits for the API server at its start lives, and is not ready. */}}
{{- define "sluice.probes" -}}
livenessProbe:
  httpGet: {path: /livez, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end -}}

{{/* What is read: kinds that have no namespace. */}}
{{- define "sluice.rbac.cluster" -}}
- apiGroups: [""]
  resources: [namespaces]
  verbs: [list, watch]
- apiGroups: [networking.k8s.io]
  resources: [ingressclasses]
  verbs: [list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [gatewayclasses]
  verbs: [list, watch]
{{- end -}}

{{/* What is read of each namespace. */}}
{{- define "sluice.rbac.namespaced" -}}
- apiGroups: [""]
  resources: [configmaps, secrets, services]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [backendtlspolicies, gateways, grpcroutes, httproutes, listenersets, referencegrants, tcproutes, tlsroutes, udproutes]
  verbs: [list, watch]
- apiGroups: [gateway.networking.x-k8s.io]
  resources: [xbackendtrafficpolicies]
  verbs: [list, watch]
- apiGroups: [sluice.dev]
  resources: [gatewayconfigs, plugins, trafficpolicies]
  verbs: [list, watch]
{{- end -}}

{{/* What is read of Sluice's own namespace where it is not among those that are served: the Services of Gateways, the front,
and where the proxies are. */}}
{{- define "sluice.rbac.services" -}}
- apiGroups: [""]
  resources: [services]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
{{- end -}}

{{/* What the controller writes: status of kinds that have no namespace. It also asks for the nodes' addresses, for Gateways
behind a Service of type NodePort, and for the version of the Gateway API. */}}
{{- define "sluice.rbac.controller.cluster" -}}
- apiGroups: [gateway.networking.k8s.io]
  resources: [gatewayclasses/status]
  verbs: [get, patch]
- apiGroups: [""]
  resources: [nodes]
  verbs: [list]
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  resourceNames: [gatewayclasses.gateway.networking.k8s.io]
  verbs: [get]
{{- end -}}

{{/* In each namespace: status, Events, and the ServiceAccounts that carry the metadata of a Gateway's infrastructure. */}}
{{- define "sluice.rbac.controller.namespaced" -}}
- apiGroups: [gateway.networking.k8s.io]
  resources: [backendtlspolicies/status, gateways/status, grpcroutes/status, httproutes/status, listenersets/status, tcproutes/status, tlsroutes/status, udproutes/status]
  verbs: [get, patch]
- apiGroups: [gateway.networking.x-k8s.io]
  resources: [xbackendtrafficpolicies/status]
  verbs: [get, patch]
- apiGroups: [sluice.dev]
  resources: [gatewayconfigs/status, plugins/status, trafficpolicies/status]
  verbs: [get, patch]
- apiGroups: [networking.k8s.io]
  resources: [ingresses/status]
  verbs: [get, patch]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [create, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, get, patch]
{{- end -}}

{{/* In Sluice's own namespace: the Services of Gateways, and the Lease. */}}
{{- define "sluice.rbac.controller.own" -}}
- apiGroups: [""]
  resources: [services]
  verbs: [create, patch, delete]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [sluice-controller]
  verbs: [get, patch]
{{- end -}}

{{- define "sluice.hasGatewayClass" -}}
{{- if or (eq .Values.gatewayClass.create "Always") (and (eq .Values.gatewayClass.create "IfServed") (.Capabilities.APIVersions.Has "gateway.networking.k8s.io/v1/GatewayClass")) -}}
true
{{- end -}}
{{- end -}}
