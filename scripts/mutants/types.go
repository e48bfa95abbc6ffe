package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	gotypes "go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// types checks packages of the module as the compiler would, in a fraction of
// the time: what they import is compiled once.
type types struct {
	packages map[string][]string // directory -> its files
	exports  map[string]string   // import path -> what the compiler says of it
	paths    map[string]string   // directory -> import path
}

func loadTypes(ctx context.Context, root string) (*types, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles", "./...")
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("list the packages: %w", err)
	}
	t := &types{packages: map[string][]string{}, exports: map[string]string{}, paths: map[string]string{}}
	dec := json.NewDecoder(out)
	for err == nil {
		var p struct {
			ImportPath, Dir, Export string
			GoFiles                 []string
		}
		if err = dec.Decode(&p); err == nil {
			t.packages[p.Dir], t.exports[p.ImportPath], t.paths[p.Dir] = p.GoFiles, p.Export, p.ImportPath
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err = errors.Join(err, cmd.Wait()); err != nil {
		return nil, fmt.Errorf("list the packages: %w", err)
	}
	return t, nil
}

// check reports why the package of the file path does not compile with text in
// its place.
func (t *types) check(path, text string) error {
	dir := filepath.Dir(path)
	fset := token.NewFileSet()
	var files []*ast.File
	found := false
	for _, name := range t.packages[dir] {
		file := filepath.Join(dir, name)
		var source any // nil: as it is on the disk
		if file == path {
			source, found = text, true
		}
		parsed, err := parser.ParseFile(fset, file, source, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files = append(files, parsed)
	}
	if !found {
		return fmt.Errorf("%q is no file of a package that is compiled here", path)
	}
	config := gotypes.Config{
		Importer: importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
			export := t.exports[path]
			if export == "" {
				return nil, fmt.Errorf("package %q has no export data", path)
			}
			return os.Open(export)
		}),
		Sizes: gotypes.SizesFor("gc", runtime.GOARCH),
	}
	_, err := config.Check(t.paths[dir], fset, files, nil)
	return err
}
