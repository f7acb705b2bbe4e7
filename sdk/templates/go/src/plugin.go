// Lets requests pass that bring a header, and tells backend and client who looked.
package main

import (
	"encoding/json"
	"errors"

	sluice "my-plugin/sdk/go"
)

const name = "my-plugin"

type policy struct {
	Header string `json:"header"`
}

func init() { sluice.Register(&policy{}) }

// main is not called: a plugin is a library.
func main() {}

func (p *policy) Configure(config []byte) error {
	if err := json.Unmarshal(config, p); err != nil {
		return err
	}
	if p.Header == "" {
		// For the operator to read.
		return errors.New("header is empty: name the header that requests have to bring")
	}
	return nil
}

func (p *policy) OnRequest(request *sluice.Request) *sluice.Reply {
	value, found := request.Header(p.Header)
	if !found {
		sluice.Info("refused: " + request.Method() + " " + request.Path())
		return &sluice.Reply{
			Status: 403,
			Header: [][2]string{{"content-type", "text/plain; charset=utf-8"}},
			Body:   "the header " + p.Header + " is missing\n",
		}
	}
	// For the access log, and for plugins that run later. A value may be too long for it.
	if err := sluice.SetAttribute(name+".value", value); err != nil {
		sluice.Warn("no attribute was set: " + err.Error())
	}
	if err := request.SetHeader("x-checked-by", name); err != nil {
		sluice.Error(err.Error())
	}
	return nil
}

func (p *policy) OnResponse(response *sluice.Response) {
	if err := response.SetHeader("x-checked-by", name); err != nil {
		sluice.Error(err.Error())
	}
}
