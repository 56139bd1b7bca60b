package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringside-cache/ringside/sidecar"
)

// settingFlags are the flags of serve: one for each setting of the config file.
type settingFlags struct {
	defaults sidecar.Settings
	flags    []*settingFlag
	file     string
}

// A settingFlag is a flag that is kept until the file is read.
type settingFlag struct {
	sidecar.Setting
	text  string
	given bool
}

func (f *settingFlag) String() string { return f.text }
func (f *settingFlag) Type() string   { return f.Kind() }

// Set keeps the text. Whether it will do is said by apply, in our words.
func (f *settingFlag) Set(text string) error {
	f.text, f.given = text, true
	return nil
}

// add adds the flags to the command, with what the defaults are.
func (f *settingFlags) add(cmd *cobra.Command) {
	f.defaults = sidecar.Settings{}.WithDefaults()
	cmd.Flags().StringVar(&f.file, "config", "", "FILE with the settings; flags come before what it says")
	for _, one := range f.defaults.All() {
		flag := &settingFlag{Setting: one}
		f.flags = append(f.flags, flag)
		help := one.Help
		if text := one.Text(); text != "" && text != "false" && text != "0" {
			help += fmt.Sprintf(" (default %s)", text)
		}
		p := cmd.Flags().VarPF(flag, one.Flag, "", help)
		if one.Kind() == "bool" {
			p.NoOptDefVal = "true"
		}
	}
}

// apply gives the settings what the command line says.
func (f *settingFlags) apply(s *sidecar.Settings) error {
	for _, flag := range f.flags {
		if !flag.given {
			continue
		}
		if err := s.Set(flag.Path, flag.text); err != nil {
			return usagef("--%s %v", flag.Flag, err)
		}
	}
	return nil
}

// parse reads the text of the config file under the flags.
func (f *settingFlags) parse(text []byte) (*sidecar.Settings, error) {
	return sidecar.ParseSettings(f.file, text, f.apply)
}

// read gives the settings and the text of the config file, if there is one.
func (f *settingFlags) read(cmd *cobra.Command) (*sidecar.Settings, []byte, error) {
	if f.file != "" {
		text, err := os.ReadFile(f.file)
		if err != nil {
			return nil, nil, err
		}
		s, err := f.parse(text)
		return s, text, err
	}
	var s sidecar.Settings
	if err := f.apply(&s); err != nil {
		return nil, nil, err
	}
	for _, flag := range f.flags {
		if flag.Path == "embedded" && flag.given && s.Embedded < 1 {
			return nil, nil, usagef("--embedded is %d, it must be at least 1", s.Embedded)
		}
	}
	if s.Embedded == 0 && len(s.Client.Servers) == 0 {
		return nil, nil, usagef("--servers LIST, --embedded N or --config FILE is needed")
	}
	if err := s.Validate(); err != nil {
		return nil, nil, &usageError{byFlags(cmd, &s, err)}
	}
	return &s, nil, nil
}

// byFlags says by the names of the command's flags what is wrong with settings.
// Those that it has no flag for follow from others.
func byFlags(cmd *cobra.Command, s *sidecar.Settings, err error) error {
	var texts []string
	for _, p := range s.Problems(err) {
		switch {
		case p.Setting == nil:
			texts = append(texts, p.Text)
		case cmd.Flags().Lookup(p.Setting.Flag) != nil:
			texts = append(texts, "--"+p.Setting.Flag+p.Text)
		}
	}
	if texts == nil {
		return err
	}
	return errors.New(strings.Join(texts, "\n"))
}

// servable looks at the files that the settings name, and whether there is
// anything to serve.
func servable(s *sidecar.Settings) error {
	err := errors.Join(listens(s), s.TLS.Check())
	if s.Embedded == 0 {
		_, credentials := s.Nodes()
		err = errors.Join(err, credentials)
	}
	return err
}

func listens(s *sidecar.Settings) error {
	if s.Memcached == sidecar.Off && s.GRPC == sidecar.Off && s.Admin == sidecar.Off {
		return errors.New("the listeners for memcached, grpc and admin are off: nothing would be served")
	}
	return nil
}

// newCheck is the command that validates a config file.
func newCheck() *cobra.Command {
	var show bool
	cmd := &cobra.Command{
		Use: "check FILE", Short: "Validate a config file: print what is wrong and where",
		Args: nArgs(1, 1, "one config file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			s, err := sidecar.ParseSettings(args[0], text, nil)
			if err != nil {
				fmt.Fprintln(cmd.OutOrStdout(), err)
				return errSilent
			}
			if err := servable(s); err != nil {
				for _, p := range s.Problems(err) {
					if p.Setting != nil {
						p.Text = p.Setting.Path + p.Text
					}
					fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[0], p.Text)
				}
				return errSilent
			}
			if show {
				full := s.WithDefaults()
				_, err = cmd.OutOrStdout().Write(full.YAML())
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is valid\n", args[0])
			return err
		},
	}
	cmd.Flags().BoolVar(&show, "print", false, "print the effective config: what the file says and the defaults")
	return cmd
}
