module github.com/seed-a5f25c57/applebusiness/internal/release

go 1.26.0

require golang.org/x/mod v0.43.0
