package main_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTLSAndPublicURL(t *testing.T) {
	command := exec.Command(binary, "-tls", "-public-url", "https://apple.test:8443/")
	stdout, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	defer command.Process.Kill()
	var said struct {
		TokenURL    string `json:"token_url"`
		APIURL      string `json:"api_url"`
		Certificate string `json:"certificate"`
	}
	require.NoError(t, json.NewDecoder(stdout).Decode(&said))
	assert.Equal(t, "https://apple.test:8443/api/v1/oauth2/token", said.TokenURL)
	assert.Equal(t, "https://apple.test:8443", said.APIURL)
	text, err := os.ReadFile(said.Certificate)
	require.NoError(t, err)
	block, _ := pem.Decode(text)
	certificate, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	for _, host := range []string{"localhost", "127.0.0.1", "apple.test"} {
		assert.NoError(t, certificate.VerifyHostname(host))
	}
	require.NoError(t, command.Process.Signal(syscall.SIGTERM))
	require.NoError(t, command.Wait())
	assert.NoFileExists(t, said.Certificate)

	program := start(t, "-tls", "-addr", "localhost:0")
	assert.True(t, strings.HasPrefix(program.APIURL, "https://localhost:"), program.APIURL)
	pool := x509.NewCertPool()
	text, err = os.ReadFile(program.Certificate)
	require.NoError(t, err)
	require.True(t, pool.AppendCertsFromPEM(text))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	response, err := client.Get(program.APIURL + "/_fake/health")
	require.NoError(t, err)
	response.Body.Close()
	assert.Equal(t, http.StatusOK, response.StatusCode)
}
