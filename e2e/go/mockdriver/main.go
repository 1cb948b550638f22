// A CSI driver that does nothing: the floor that provisioning is measured against.
// It serves Kubernetes' own mock service on a unix socket.
package main

import (
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"k8s.io/kubernetes/test/e2e/storage/drivers/csi-test/mock/service"
)

func main() {
	endpoint := flag.String("endpoint", "/csi/csi.sock", "path of the unix socket to serve on")
	name := flag.String("name", "mock.csi.twinvault.io", "name of the driver")
	flag.Parse()

	if err := os.Remove(*endpoint); err != nil && !os.IsNotExist(err) {
		log.Fatalf("cannot remove the socket that an earlier start left: %v", err)
	}
	listener, err := net.Listen("unix", *endpoint)
	if err != nil {
		log.Fatalf("cannot serve on %s: %v", *endpoint, err)
	}
	mock := service.New(service.Config{DriverName: *name, DisableAttach: true})
	server := grpc.NewServer()
	csi.RegisterIdentityServer(server, mock)
	csi.RegisterControllerServer(server, mock)
	csi.RegisterNodeServer(server, mock)

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		server.GracefulStop()
	}()
	log.Printf("%s serves on %s", *name, *endpoint)
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
