package tools

// PublicOnly is asked for each address that an answer makes this program
// connect to.
func PublicOnly(address string) error { return publicOnly("tcp", address, nil) }
