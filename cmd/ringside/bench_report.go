package main

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/ringside-cache/ringside/bench"
)

// reportFlags say what to make of a report.
type reportFlags struct{ from, plots, out, readme string }

// newBenchReport is what "make benchmarks" calls.
func newBenchReport() *cobra.Command {
	var f reportFlags
	cmd := &cobra.Command{
		Use: "report", Short: "Make tables, pictures and a page of a report that --json has kept",
		Long: `Print the report that --json has kept in a file as a table again. With --plots,
--out or --readme make the pictures, the page and the excerpt in a README instead.
Nothing is measured.`,
		Args: nArgs(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.from, "from", "", "the FILE that --json has written")
	flags.StringVar(&f.plots, "plots", "", "draw the pictures into this DIRECTORY")
	flags.StringVar(&f.out, "out", "", "write the page with all figures to this FILE; its pictures are those of --plots")
	flags.StringVar(&f.readme, "readme", "", "put some figures and pictures between the marks in this FILE")
	return cmd
}

func (f *reportFlags) run(cmd *cobra.Command) error {
	if f.from == "" {
		return usagef("--from is missing: a file that --json has written")
	}
	if f.plots == "" && (f.out != "" || f.readme != "") {
		return usagef("--plots is missing: where the pictures of the page are")
	}
	file, err := os.Open(f.from)
	if err != nil {
		return err
	}
	report, err := bench.ReadReport(file)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if f.plots == "" {
		return report.WriteTable(cmd.OutOrStdout())
	}
	if err := os.MkdirAll(f.plots, 0o755); err != nil {
		return err
	}
	return errors.Join(bench.WritePlots(report, f.plots), f.page(report), f.excerpt(report))
}

func (f *reportFlags) page(report *bench.Report) (err error) {
	if f.out == "" {
		return nil
	}
	images, err := f.imagesFrom(f.out)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(f.out, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return bench.WritePage(report, images, &truncating{file: file})
}

func (f *reportFlags) excerpt(report *bench.Report) error {
	if f.readme == "" {
		return nil
	}
	images, err := f.imagesFrom(f.readme)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(f.readme)
	if err != nil {
		return err
	}
	changed, err := bench.ReplaceExcerpt(string(text), report, images)
	if err != nil {
		return err
	}
	return os.WriteFile(f.readme, []byte(changed), 0o644)
}

// imagesFrom is the directory of the pictures as a page refers to it.
func (f *reportFlags) imagesFrom(page string) (string, error) {
	path, err := filepath.Rel(filepath.Dir(page), f.plots)
	return filepath.ToSlash(path), err
}
