// Package conformance pins the Gateway API's conformance suite and its backend; both are built as they come.
package conformance

import _ "sigs.k8s.io/gateway-api/conformance"
