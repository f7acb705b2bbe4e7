package sluice

import "unsafe"

// Kinds of header maps, as the ABI numbers them.
const (
	requestHeaders  = 0
	responseHeaders = 2
)

// Answers of the host's functions.
const (
	statusOK = 0
)

const bufferConfiguration = 7

//go:wasmimport env proxy_log
func proxyLog(level uint32, message unsafe.Pointer, size uint32) uint32

//go:wasmimport env proxy_get_buffer_bytes
func proxyGetBufferBytes(buffer, start, max uint32, data, size unsafe.Pointer) uint32

//go:wasmimport env proxy_get_header_map_value
func proxyGetHeaderMapValue(kind uint32, name unsafe.Pointer, nameSize uint32, data, size unsafe.Pointer) uint32

//go:wasmimport env proxy_replace_header_map_value
func proxyReplaceHeaderMapValue(kind uint32, name unsafe.Pointer, nameSize uint32, value unsafe.Pointer, valueSize uint32) uint32

//go:wasmimport env proxy_add_header_map_value
func proxyAddHeaderMapValue(kind uint32, name unsafe.Pointer, nameSize uint32, value unsafe.Pointer, valueSize uint32) uint32

//go:wasmimport env proxy_remove_header_map_value
func proxyRemoveHeaderMapValue(kind uint32, name unsafe.Pointer, nameSize uint32) uint32

//go:wasmimport env proxy_get_property
func proxyGetProperty(path unsafe.Pointer, pathSize uint32, data, size unsafe.Pointer) uint32

//go:wasmimport env proxy_set_property
func proxySetProperty(path unsafe.Pointer, pathSize uint32, value unsafe.Pointer, valueSize uint32) uint32

//go:wasmimport env proxy_send_local_response
func proxySendLocalResponse(status uint32, details unsafe.Pointer, detailsSize uint32, body unsafe.Pointer, bodySize uint32, headers unsafe.Pointer, headersSize uint32, grpcStatus int32) uint32

// What the host has asked room for and will fill: held here until the call that it belongs to takes it, so that the
// collector leaves it alone.
var lent = map[uintptr][]byte{}

//go:wasmexport proxy_on_memory_allocate
func onMemoryAllocate(size uint32) unsafe.Pointer {
	room := make([]byte, max(size, 1))
	at := unsafe.Pointer(unsafe.SliceData(room))
	lent[uintptr(at)] = room
	return at
}

// taken gives what the host wrote to memory that it asked for.
func taken(at uint32, size uint32) []byte {
	room, known := lent[uintptr(at)]
	if !known {
		return nil
	}
	delete(lent, uintptr(at))
	return room[:size]
}

// pointer and its length, as the host takes a text.
func text(s string) (unsafe.Pointer, uint32) {
	return unsafe.Pointer(unsafe.StringData(s)), uint32(len(s))
}

//go:wasmexport proxy_abi_version_0_2_1
func abiVersion() {}
