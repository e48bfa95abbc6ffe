package oauthclient

// Paste reads line as the answer to a sign-in with that state at issuer.
func Paste(line, state, issuer string, issSupported bool) (code string, answered bool, err error) {
	cb := &callback{expect: expectation{state: state, issuer: issuer, issSupported: issSupported}, answers: make(chan callbackAnswer, 1)}
	if err := cb.paste(line); err != nil {
		return "", false, err
	}
	select {
	case a := <-cb.answers:
		return a.code, true, a.err
	default:
		return "", false, nil
	}
}
