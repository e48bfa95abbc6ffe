package server

import "time"

// SetWatchInterval lets a test see changed roles without a long wait. It must
// be called before Serve.
func (s *Server) SetWatchInterval(every time.Duration) { s.watchEvery = every }

// SetShutdownTimeout shortens the time that calls have to finish.
func (s *Server) SetShutdownTimeout(d time.Duration) { s.shutdownTimeout = d }

// SetHeaderTimeout shortens the time that the head of a request has.
func (s *Server) SetHeaderTimeout(d time.Duration) { s.headerTimeout = d }

// WorkersAIAt is WorkersAI with another base URL.
var WorkersAIAt = workersAI

// CallByEngine has the engine answer every call.
func CallByEngine(s *Server, always bool) { s.engineOnly.Store(always) }
