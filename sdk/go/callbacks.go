package sluice

import "unsafe"

const (
	actionContinue = 0
	actionPause    = 1
)

//go:wasmexport proxy_on_context_create
func onContextCreate(context, parent uint32) {}

//go:wasmexport proxy_on_vm_start
func onVMStart(context, size uint32) uint32 { return 1 }

//go:wasmexport proxy_on_configure
func onConfigure(context, size uint32) uint32 {
	if plugin == nil {
		Error(errNoPlugin.Error())
		return 0
	}
	var config []byte
	if size > 0 {
		var at, length uint32
		if proxyGetBufferBytes(bufferConfiguration, 0, size, unsafe.Pointer(&at), unsafe.Pointer(&length)) == statusOK {
			config = taken(at, length)
		}
	}
	if err := plugin.Configure(config); err != nil {
		Error(err.Error())
		return 0
	}
	return 1
}

//go:wasmexport proxy_on_request_headers
func onRequestHeaders(context, fields, end uint32) uint32 {
	reply := plugin.OnRequest(&Request{})
	if reply == nil {
		return actionContinue
	}
	if err := reply.send(); err != nil {
		panic(err)
	}
	return actionPause
}

//go:wasmexport proxy_on_response_headers
func onResponseHeaders(context, fields, end uint32) uint32 {
	plugin.OnResponse(&Response{})
	return actionContinue
}

//go:wasmexport proxy_on_done
func onDone(context uint32) uint32 { return 1 }

//go:wasmexport proxy_on_delete
func onDelete(context uint32) {}
