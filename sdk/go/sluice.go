// Package sluice is what a plugin in Go is written with. It speaks the proxy-wasm ABI (0.2.1): Go's toolchain makes no
// component. One VM serves many requests, so what the plugin keeps in its memory, its other requests see; what it keeps
// of a request is a mistake.
package sluice

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unsafe"
)

// Plugin is a policy. Its Configure is called once in each VM; a VM serves many requests, one after the other.
type Plugin interface {
	// Configure is given the use's configuration as JSON; an error refuses it, for the operator to read.
	Configure(config []byte) error
	// OnRequest sees a request's head. A reply answers it; nil lets it go on.
	OnRequest(request *Request) *Reply
	// OnResponse sees a response's head, the plugin's own reply included.
	OnResponse(response *Response)
}

var plugin Plugin

// Register says which plugin this is; to be called from init.
func Register(p Plugin) { plugin = p }

// Request is the head of a request. In the response's phase it can only be read.
type Request struct{}

// Response is the head of a response.
type Response struct{}

// Reply is an answer of the plugin's own.
type Reply struct {
	Status uint32
	Header [][2]string
	Body   string
}

// Method is GET, for one.
func (*Request) Method() string { return pseudo(":method") }

// Scheme is http or https, as the client used it.
func (*Request) Scheme() string { return pseudo(":scheme") }

// Authority is the host, with its port where one was given.
func (*Request) Authority() string { return pseudo(":authority") }

// Path is without the query.
func (*Request) Path() string {
	path, _, _ := strings.Cut(pseudo(":path"), "?")
	return path
}

// Query is what follows the question mark.
func (*Request) Query() (string, bool) {
	_, query, found := strings.Cut(pseudo(":path"), "?")
	return query, found
}

func pseudo(name string) string {
	value, _ := header(requestHeaders, name)
	return value
}

// Header gives the first value of a header.
func (*Request) Header(name string) (string, bool) { return header(requestHeaders, name) }

// SetHeader replaces every value.
func (*Request) SetHeader(name, value string) error { return setHeader(requestHeaders, name, value) }

// AddHeader adds one more value.
func (*Request) AddHeader(name, value string) error { return addHeader(requestHeaders, name, value) }

// RemoveHeader removes every value.
func (*Request) RemoveHeader(name string) error { return removeHeader(requestHeaders, name) }

// Request gives the head of the request that is answered.
func (*Response) Request() *Request { return &Request{} }

// Status is the response's status code.
func (*Response) Status() string {
	status, _ := header(responseHeaders, ":status")
	return status
}

// Header gives the first value of a header.
func (*Response) Header(name string) (string, bool) { return header(responseHeaders, name) }

// SetHeader replaces every value.
func (*Response) SetHeader(name, value string) error { return setHeader(responseHeaders, name, value) }

// AddHeader adds one more value.
func (*Response) AddHeader(name, value string) error { return addHeader(responseHeaders, name, value) }

// RemoveHeader removes every value.
func (*Response) RemoveHeader(name string) error { return removeHeader(responseHeaders, name) }

// Property is what the gateway knows besides: a path of Envoy's names, as source, address.
func Property(path ...string) ([]byte, bool) {
	var at, size uint32
	name, nameSize := text(strings.Join(path, "\x00"))
	if proxyGetProperty(name, nameSize, unsafe.Pointer(&at), unsafe.Pointer(&size)) != statusOK {
		return nil, false
	}
	return taken(at, size), true
}

// SetAttribute is for the access log, and for plugins that run later.
func SetAttribute(name, value string) error {
	path, pathSize := text(name)
	data, size := text(value)
	return refused("attribute "+name, proxySetProperty(path, pathSize, data, size))
}

// Debug writes a line to the gateway's log, under the plugin's name.
func Debug(message string) { line(1, message) }

// Info does so at its level.
func Info(message string) { line(2, message) }

// Warn does so at its level.
func Warn(message string) { line(3, message) }

// Error does so at its level. The last one in Configure is told as the reason where that refuses.
func Error(message string) { line(4, message) }

func line(level uint32, message string) {
	at, size := text(message)
	proxyLog(level, at, size)
}

func header(kind uint32, name string) (string, bool) {
	var at, size uint32
	key, keySize := text(name)
	if proxyGetHeaderMapValue(kind, key, keySize, unsafe.Pointer(&at), unsafe.Pointer(&size)) != statusOK {
		return "", false
	}
	return string(taken(at, size)), true
}

func setHeader(kind uint32, name, value string) error {
	key, keySize := text(name)
	data, size := text(value)
	return refused("header "+name, proxyReplaceHeaderMapValue(kind, key, keySize, data, size))
}

func addHeader(kind uint32, name, value string) error {
	key, keySize := text(name)
	data, size := text(value)
	return refused("header "+name, proxyAddHeaderMapValue(kind, key, keySize, data, size))
}

func removeHeader(kind uint32, name string) error {
	key, keySize := text(name)
	return refused("header "+name, proxyRemoveHeaderMapValue(kind, key, keySize))
}

func refused(what string, status uint32) error {
	if status == statusOK {
		return nil
	}
	return fmt.Errorf("%s: refused with status %d; the gateway's log says why", what, status)
}

// send answers the request.
func (reply *Reply) send() error {
	headers := encoded(reply.Header)
	at, size := text(reply.Body)
	fields := unsafe.Pointer(unsafe.SliceData(headers))
	return refused("reply", proxySendLocalResponse(reply.Status, nil, 0, at, size, fields, uint32(len(headers)), -1))
}

// encoded is a list of fields as the ABI has it: their number, the lengths of all, and all, each with a zero behind it.
func encoded(fields [][2]string) []byte {
	out := binary.LittleEndian.AppendUint32(nil, uint32(len(fields)))
	for _, field := range fields {
		out = binary.LittleEndian.AppendUint32(out, uint32(len(field[0])))
		out = binary.LittleEndian.AppendUint32(out, uint32(len(field[1])))
	}
	for _, field := range fields {
		for _, part := range field {
			out = append(append(out, part...), 0)
		}
	}
	return out
}

var errNoPlugin = errors.New("no plugin is registered: call sluice.Register from init")
