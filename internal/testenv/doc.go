// Package testenv starts the real servers that tests need (redis-server, mariadbd,
// nats-server, flashgate itself) on loopback, on free ports and in directories of
// their own, and ends every one of them by its process id: when the test ends, and
// through the kernel when the test binary dies.
//
// A package whose tests use a shared server ends with
//
//	func TestMain(m *testing.M) { testenv.Main(m) }
//
// which stops the shared servers and then looks for leaked goroutines.
package testenv
