package devclerk

import (
	"bytes"
	_ "embed"
	"errors"
	"html/template"
	"net/http"
)

//go:embed users.html
var usersHTML string

var usersTemplate = parsed("users", &usersHTML)

// userAction is what a developer can do to a user on the page of all users,
// which stands in for Clerk's dashboard: it is no part of Clerk's APIs.
type userAction struct {
	Name, Label string
	offered     func(a account) bool
	do          func(s *Server, id string) error
}

// notOffered is for scripts: the page shows what one tries first.
func notOffered(account) bool { return false }

var userActions = []userAction{
	{"make-admin", "Make admin", func(a account) bool { return a.PublicMetadata["role"] != "admin" }, func(s *Server, id string) error { return s.SetRole(id, "admin") }},
	{"remove-role", "Remove role", func(a account) bool { return a.PublicMetadata["role"] != nil }, func(s *Server, id string) error { return s.SetRole(id, "") }},
	{"ban", "Ban", func(a account) bool { return !a.Banned }, (*Server).Ban},
	{"unban", "Take ban back", func(a account) bool { return a.Banned }, (*Server).Unban},
	{"lock", "Lock", notOffered, (*Server).Lock},
	{"unlock", "Unlock", notOffered, (*Server).Unlock},
	{"delete", "Delete", notOffered, (*Server).Delete},
}

func (s *Server) serveUsersPage(w http.ResponseWriter, _ *http.Request) {
	s.showUsers(w, http.StatusOK, "")
}

// serveUserAction is the submit of that page.
func (s *Server) serveUserAction(w http.ResponseWriter, r *http.Request) {
	if s.origin.Check(r) != nil {
		http.Error(w, "this form was sent from another site", http.StatusForbidden)
		return
	}
	form, err := postForm(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, action := range userActions {
		if action.Name != form.Get("action") {
			continue
		}
		switch err := action.do(s, form.Get("user")); {
		case errors.Is(err, errUnknownUser):
			s.showUsers(w, http.StatusNotFound, "This user does not exist any more.")
		case err != nil:
			s.showUsers(w, http.StatusInternalServerError, "This did not work.")
		default:
			http.Redirect(w, r, "/users", http.StatusSeeOther)
		}
		return
	}
	s.showUsers(w, http.StatusBadRequest, "There is no such action.")
}

func (s *Server) showUsers(w http.ResponseWriter, status int, problem string) {
	type user struct {
		pageUser
		Actions []userAction
	}
	view := struct {
		Style   template.CSS
		Problem string
		Users   []user
	}{template.CSS(pageCSS), problem, nil} //nolint:gosec // our own file
	for _, a := range s.accounts() {
		u := user{pageUser: newPageUser(a)}
		for _, action := range userActions {
			if action.offered(a) {
				u.Actions = append(u.Actions, action)
			}
		}
		view.Users = append(view.Users, u)
	}
	var b bytes.Buffer
	if err := usersTemplate().Execute(&b, view); err != nil {
		http.Error(w, "the page can't be made", http.StatusInternalServerError)
		return
	}
	writePage(w, status, b.Bytes())
}
