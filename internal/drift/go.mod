module github.com/seed-a5f25c57/applebusiness/internal/drift

go 1.26.0

replace github.com/seed-a5f25c57/applebusiness => ../..

require (
	github.com/seed-a5f25c57/applebusiness v0.1.0
	github.com/stretchr/testify v1.12.1
	golang.org/x/net v0.62.0
)

require (
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/oauth2 v0.38.0 // indirect
)
