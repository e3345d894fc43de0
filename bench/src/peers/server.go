// Go's net and net/http as a server; the argument is its role.
package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
)

var hello = []byte("Hello, World!")

func echo(connection net.Conn, role string) {
	defer connection.Close()
	if role == "lines" {
		reader := bufio.NewReader(connection)
		for {
			line, err := reader.ReadSlice('\n')
			if err != nil {
				return
			}
			if _, err := connection.Write(line); err != nil {
				return
			}
		}
	}
	buffer := make([]byte, 16*1024)
	for {
		length, err := connection.Read(buffer)
		if err != nil {
			return
		}
		if _, err := connection.Write(buffer[:length]); err != nil {
			return
		}
		if role == "echo-one" {
			return
		}
	}
}

// A member of a fan-out: a goroutine writes what its channel has.
type member struct {
	lines chan []byte
}

var (
	members = map[*member]bool{}
	guard   sync.RWMutex
)

func fanOut(connection net.Conn) {
	defer connection.Close()
	self := &member{lines: make(chan []byte, 1024)}
	guard.Lock()
	members[self] = true
	guard.Unlock()
	go func() {
		for line := range self.lines {
			if _, err := connection.Write(line); err != nil {
				connection.Close()
			}
		}
	}()
	buffer := make([]byte, 16*1024)
	for {
		length, err := connection.Read(buffer)
		if err != nil {
			break
		}
		line := append([]byte(nil), buffer[:length]...)
		guard.RLock()
		for other := range members {
			other.lines <- line
		}
		guard.RUnlock()
	}
	guard.Lock()
	delete(members, self)
	guard.Unlock()
	close(self.lines)
}

func main() {
	runtime.GOMAXPROCS(1)
	role := os.Args[1]
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("listening on %s\n", listener.Addr())
	if role == "hello-1" {
		handler := func(writer http.ResponseWriter, request *http.Request) {
			writer.Header().Set("Content-Type", "text/plain")
			_, _ = writer.Write(hello)
		}
		_ = http.Serve(listener, http.HandlerFunc(handler))
		return
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			continue
		}
		if role == "fan-out" {
			go fanOut(connection)
		} else {
			go echo(connection, role)
		}
	}
}
